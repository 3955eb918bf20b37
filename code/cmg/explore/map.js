"use strict";
// The map: every code in use as a circle on a canvas, parted by the modalities' shares; shared codes in front.

const map = (() => {
  const canvas = document.getElementById("canvas");
  const pen = canvas.getContext("2d");
  const hint = document.getElementById("hint");
  const edge = 26; // pixels around the outermost codes
  const mostOf = (counts) => Math.max(...CMG.used.map((code) => model.uses(code, counts)));
  let use = model.total, most = mostOf(use), selected = null, current = null, circles = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function arrange() {
    const box = canvas.parentElement.getBoundingClientRect();
    const width = box.width, height = box.height, scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const room = Math.sqrt(Math.max(width - 2 * edge, 1) * Math.max(height - 2 * edge, 1) / CMG.used.length);
    const largest = Math.min(edge - 4, Math.max(3, 0.62 * room));
    circles = CMG.used.map((code, i) => ({
      code, shared: CMG.shared[i], largest,
      x: edge + CMG.places[2 * i] / 10000 * (width - 2 * edge),
      y: edge + CMG.places[2 * i + 1] / 10000 * (height - 2 * edge),
    }));
    circles.sort((a, b) => a.shared - b.shared || model.overlap(a.code) - model.overlap(b.code));
  }

  function radius(circle) {
    const n = model.uses(circle.code, use);
    return n ? Math.max(0.28, Math.sqrt(n / most)) * circle.largest : 0;
  }

  function draw() {
    const ink = colour("--ink"), paper = colour("--paper"), line = colour("--line");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (const circle of circles) {
      const r = radius(circle);
      if (!r) {
        dot(circle, 2, line);
        continue;
      }
      pen.globalAlpha = circle.shared || model.modalities.length === 1 ? 1 : 0.62;
      let angle = -Math.PI / 2;
      model.shares(circle.code, use).forEach((share, m) => {
        if (!share) return;
        pen.beginPath();
        if (share < 1) pen.moveTo(circle.x, circle.y);
        pen.arc(circle.x, circle.y, r, angle, angle += 2 * Math.PI * share);
        pen.fillStyle = model.modalities[m].colour;
        pen.fill();
      });
      pen.globalAlpha = 1;
      ring(circle, r, paper, 1);
      if (circle.code === selected) ring(circle, r + 2.5, ink, 2.5);
      else if (circle.code === current) ring(circle, r + 2, ink, 1.5);
    }
    const front = circles.find((circle) => circle.code === selected);
    if (front) name(front, radius(front), ink, paper);
  }

  function dot(circle, r, fill) {
    pen.beginPath();
    pen.arc(circle.x, circle.y, r, 0, 2 * Math.PI);
    pen.fillStyle = fill;
    pen.fill();
    if (circle.code === selected || circle.code === current) ring(circle, r + 3, colour("--ink"), 1.5);
  }

  function ring(circle, r, stroke, width) {
    pen.beginPath();
    pen.arc(circle.x, circle.y, r, 0, 2 * Math.PI);
    pen.strokeStyle = stroke;
    pen.lineWidth = width;
    pen.stroke();
  }

  function name(circle, r, ink, paper) {
    pen.font = "600 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.lineWidth = 4;
    pen.strokeStyle = paper;
    pen.fillStyle = ink;
    const y = circle.y - r - 9 < 12 ? circle.y + r + 17 : circle.y - r - 8;
    pen.strokeText(circle.code, circle.x, y);
    pen.fillText(circle.code, circle.x, y);
  }

  function nearest(x, y, within) {
    let best = null, least = within;
    for (const circle of circles) {
      const gap = Math.hypot(circle.x - x, circle.y - y) - radius(circle);
      if (gap <= least) { best = circle; least = gap; }
    }
    return best;
  }

  // The next code in a direction: near, and not far off the way.
  function next(dx, dy) {
    const from = circles.find((circle) => circle.code === (current ?? selected)) ?? circles[circles.length - 1];
    let best = from, least = Infinity;
    for (const circle of circles) {
      const along = (circle.x - from.x) * dx + (circle.y - from.y) * dy;
      const aside = Math.abs((circle.x - from.x) * dy - (circle.y - from.y) * dx);
      if (along > 0 && along + 2 * aside < least) { best = circle; least = along + 2 * aside; }
    }
    return best;
  }

  function point(circle) {
    current = circle ? circle.code : null;
    hint.hidden = !circle;
    if (circle) {
      hint.replaceChildren(views.codeCard(circle.code, use));
      const box = canvas.getBoundingClientRect(), own = hint.getBoundingClientRect();
      const gap = radius(circle) + 10;
      const left = Math.min(Math.max(circle.x - own.width / 2, 0), Math.max(box.width - own.width, 0));
      const above = circle.y - gap - own.height;
      hint.style.left = `${left}px`;
      hint.style.top = `${above < -60 ? circle.y + gap : above}px`;
    }
    draw();
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const found = nearest(event.offsetX, event.offsetY, 8);
    canvas.style.cursor = found ? "pointer" : "";
    if ((found ? found.code : null) !== current) point(found);
  });
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("blur", () => point(null));
  canvas.addEventListener("click", (event) => {
    const found = nearest(event.offsetX, event.offsetY, 14);
    if (found) location.hash = `code=${found.code}`;
  });
  canvas.addEventListener("keydown", (event) => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (way) {
      event.preventDefault();
      point(next(...way));
      document.getElementById("said").textContent = views.inWords(current, use);
    } else if (event.key === "Enter" && current !== null) location.hash = `code=${current}`;
    else if (event.key === "Escape") point(null);
  });

  new ResizeObserver(() => { arrange(); draw(); }).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  return {
    // Show the use that `counts` says, and a code as chosen (or null).
    show(counts, code) { use = counts; most = mostOf(use); selected = code; draw(); },
    place(code) { return circles.find((circle) => circle.code === code); },
  };
})();
