"use strict";
// The page: what the address asks for (#code=17, #clip=name, #clips), the filter, the player.

(() => {
  const {el, number} = views;
  const at = (id) => document.getElementById(id);
  const state = {mask: null, use: model.total, codes: model.modalities.length > 1 ? "shared" : "used", clips: "data"};

  function summary() {
    const shared = CMG.shared.reduce((sum, one) => sum + one, 0);
    const said = [`${number(CMG.used.length)} of ${number(CMG.size)} codes in use`];
    if (model.modalities.length > 1) said.push(`${number(shared)} shared`);
    said.push(`${number(model.clips)} clips`);
    for (const [a, b, rate, chance] of CMG.pairs) {
      if (rate !== null) said.push(`${a} and ${b} say the same in ${rate.toFixed(1)} % of seconds (by chance ${chance.toFixed(1)} %)`);
    }
    document.title = at("title").textContent = `Codes of ${CMG.title}`;
    at("summary").textContent = said.join(" · ");
    at("summary").title = `${CMG.method} on ${CMG.data.join(", ")}, cmg ${CMG.version}`;
    at("legend").append(...model.modalities.map((one) => el("li", {},
      el("i", {class: "key", style: {background: one.colour}}), one.name)));
    at("front").textContent = model.modalities.length > 1
      ? "In front are shared codes, of which two modalities have more than a fifth of the use each." : "";
    at("label").append(el("option", {value: "-1"}, "All labels"),
      ...CMG.labels.map((name, n) => el("option", {value: n}, name)));
    at("label").hidden = !CMG.labels.length;
  }

  function tabs(kind) {
    at("tabs").replaceChildren(...[["codes", "Codes", "#"], ["clips", "Clips", "#clips"]].map(([own, told, href]) =>
      el("a", {href, "aria-current": kind === own ? "page" : null}, told)));
  }

  function asked() {
    const [name, value = ""] = location.hash.slice(1).split(/=(.*)/s);
    if (name === "code") return ["code", Number(value)];
    if (name === "clip") {
      try { return ["clip", decodeURIComponent(value)]; } catch { return ["clip", value]; }
    }
    return [name === "clips" ? "clips" : "codes", null];
  }

  function show() {
    const [kind, value] = asked();
    const change = (part) => { Object.assign(state, part); show(); };
    tabs(kind);
    at("view").replaceChildren(views[kind](...(kind === "clip" ? [value] : kind === "code" ? [state, value]
      : [state, change])));
    let use = state.use;
    if (kind === "clip" && CMG.ids.includes(value)) {
      const mask = new Uint8Array(model.clips);
      mask[CMG.ids.indexOf(value)] = 1;
      use = model.counts(mask);
    }
    map.show(use, kind === "code" ? value : null);
  }

  function filter() {
    state.mask = model.match(at("query").value, Number(at("label").value));
    state.use = state.mask ? model.counts(state.mask) : model.total;
    const left = state.mask ? state.mask.reduce((sum, one) => sum + one, 0) : model.clips;
    at("matches").textContent = state.mask ? `${number(left)} of ${number(model.clips)} clips` : "";
    if (asked()[0] === "clip") location.hash = "clips"; // which shows
    else show();
  }

  function play(button) {
    const player = at("player"), before = document.querySelector(".playing");
    if (before) before.classList.remove("playing");
    if (before === button && !player.paused) return player.pause();
    player.src = button.dataset.sound;
    player.onended = player.onerror = () => button.classList.remove("playing");
    button.classList.add("playing");
    player.play().catch(() => button.classList.remove("playing"));
  }

  summary();
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  at("query").addEventListener("input", filter);
  at("label").addEventListener("change", filter);
  addEventListener("hashchange", () => {
    show();
    const {top} = at("panel").getBoundingClientRect();
    if (top < 0 || top > 0.6 * innerHeight) at("panel").scrollIntoView();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|SELECT/.test(event.target.tagName)) { event.preventDefault(); at("query").focus(); }
    if (event.key === "Escape" && event.target === at("query")) { at("query").value = ""; filter(); }
  });
  at("view").addEventListener("click", (event) => {
    const button = event.target.closest("[data-sound]");
    if (button) play(button);
  });
  show();
})();
