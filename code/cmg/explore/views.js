"use strict";
// What the panel shows: codes, clips, one code, one clip. All that comes from data is set as text, never as HTML.

const views = (() => {
  const number = (n) => n.toLocaleString("en");
  const percent = (x) => x > 0 && x < 0.01 ? "< 1 %" : `${Math.round(100 * x)} %`;
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;

  function el(tag, attributes = {}, ...children) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "style") for (const [key, own] of Object.entries(value)) found.style.setProperty(key, own);
      else if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) found.setAttribute(name, value === true ? "" : value);
    }
    found.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return found;
  }

  const codeLink = (code) => `#code=${code}`;
  const clipLink = (clip) => `#clip=${encodeURIComponent(CMG.ids[clip])}`;

  function pie(code, use) {
    let angle = 0;
    const parts = model.shares(code, use).map((share, m) =>
      `${model.modalities[m].colour} ${angle}turn ${angle += share}turn`);
    return el("i", {class: "pie", style: {background: `conic-gradient(${parts.join(",")})`}});
  }

  // A picture out of a clip's strip; null where there is none of this second.
  function picture(clip, second) {
    const strip = CMG.pictures[clip];
    if (!strip || second >= strip[0]) return null;
    const columns = Math.min(CMG.columns, strip[0]), rows = Math.ceil(strip[0] / CMG.columns);
    const place = (at, all) => all > 1 ? `${100 * at / (all - 1)}%` : "0";
    return el("span", {class: "picture", role: "img", "aria-label": `${CMG.ids[clip]} at ${clock(second)}`, style: {
      "aspect-ratio": strip[1], "background-image": `url("pictures/${clip}.webp")`,
      "background-size": `${100 * columns}% ${100 * rows}%`,
      "background-position":
        `${place(second % CMG.columns, columns)} ${place(Math.floor(second / CMG.columns), rows)}`,
    }});
  }

  // A button that plays a second; null where it was not kept. `wave`: with its wave drawn.
  function sound(clip, second, wave) {
    const levels = CMG.sounds[`${clip}_${second}`];
    if (!levels) return null;
    const button = el("button", {class: wave ? "sound wave" : "sound", type: "button",
      "aria-label": `Play ${CMG.ids[clip]} at ${clock(second)}`, "data-sound": `sounds/${clip}_${second}.mp3`});
    button.append(el("i", {class: "triangle"}));
    if (wave) button.append(el("span", {class: "bars"}, ...[...levels].map((level) =>
      el("i", {style: {height: `${8 + 92 * parseInt(level, 16) / 15}%`}}))));
    return button;
  }

  const typicalOf = (one, code) => {
    const own = one.typical[model.position.get(code)];
    return Array.from({length: own.length / 2}, (_, i) => [own[2 * i], own[2 * i + 1]]);
  };

  function wordsOf(code) {
    const own = CMG.frequent ? CMG.frequent[model.position.get(code)] : [];
    return Array.from({length: own.length / 2}, (_, i) => [own[2 * i], own[2 * i + 1]]);
  }

  function inWords(code, use) {
    const shares = model.shares(code, use).map((x, m) => `${model.modalities[m].name} ${percent(x)}`);
    return `Code ${code}, used ${number(model.uses(code, use))} times, ${shares.join(", ")}`;
  }

  // A code at a glance.
  function codeCard(code, use) {
    const seen = model.modalities.filter((one) => one.source === "frames").flatMap((one) => typicalOf(one, code));
    const film = seen.map(([clip, step]) => picture(clip, secondOf("frames", step))).filter(Boolean).slice(0, 4);
    const words = wordsOf(code).slice(0, 3).map(([word]) => word).join(" · ");
    const [label] = model.labelsOf(code);
    return el("a", {class: "card", href: codeLink(code), "aria-label": inWords(code, use)},
      el("span", {class: "head"}, pie(code, use), el("b", {}, code),
        el("span", {class: "quiet"}, `${number(model.uses(code, use))}×`)),
      film.length ? el("span", {class: "film"}, ...film) : null,
      words ? el("span", {class: "words"}, words) : null,
      label ? el("span", {class: "quiet label", title: "of its use is in clips with this label"},
        `${label[0]} ${percent(label[1])}`) : null);
  }

  function secondOf(source, step) {
    return Math.floor(step * (model.modalities.find((one) => one.source === source) ?? {seconds: 1}).seconds);
  }

  const chip = (code, use) => el("a", {class: "chip", href: codeLink(code), "aria-label": inWords(code, use)},
    pie(code, use), String(code));

  // Append items bit by bit while their end comes into sight.
  function long(items, make, holder, batch = 24) {
    let at = 0;
    const end = el("div", {class: "end"});
    const more = () => {
      holder.append(...items.slice(at, at += batch).map(make));
      if (at >= items.length) { watch.disconnect(); end.remove(); }
    };
    const watch = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) more(); },
      {rootMargin: "600px"});
    more();
    const box = el("div", {}, holder, end);
    if (at < items.length) watch.observe(end);
    return box;
  }

  function ordering(options, chosen, change) {
    const select = el("select", {"aria-label": "Order", onchange: (event) => change(event.target.value)},
      ...Object.entries(options).map(([value, told]) => el("option", {value, selected: value === chosen}, told)));
    return el("label", {class: "order quiet"}, "Order ", select);
  }

  function codes(state, change) {
    const list = model.order[state.codes](state.use);
    const options = {shared: "shared first", used: "most used", number: "by number"};
    if (model.modalities.length < 2) delete options.shared;
    return el("div", {}, el("div", {class: "bar"}, el("h2", {}, plural(list.length, "code")),
      ordering(options, state.codes, (value) => change({codes: value}))),
      list.length ? long(list, (code) => codeCard(code, state.use), el("div", {class: "cards"}))
        : el("p", {class: "quiet"}, "No clip has all of these words."));
  }

  // The time line of a clip in small: a row a modality; seconds that agree are full.
  function small(clip, code) {
    const {rows, same} = model.agreement(clip);
    const length = Math.max(1, ...rows.map((row) => row.length));
    return el("span", {class: "small", style: {"--length": length}}, ...rows.flatMap((row, i) => row.map((own, step) =>
      el("i", {class: [own === null ? "gap" : "", same[i][step] ? "same" : "", own === code ? "own" : ""].join(" "),
        style: {"--colour": model.timed[i].colour}}))));
  }

  function clipRow(clip, code) {
    const labels = model.labelled(clip).join(", ");
    return el("a", {class: "row", href: clipLink(clip)}, picture(clip, 0) ?? el("i"),
      el("span", {class: "told"}, el("b", {}, CMG.ids[clip]), labels ? el("span", {class: "tag"}, labels) : null,
        CMG.captions && CMG.captions[clip] ? el("span", {class: "quiet"}, CMG.captions[clip]) : null),
      model.timed.length ? small(clip, code) : "");
  }

  function clips(state, change) {
    let list = Array.from({length: model.clips}, (_, clip) => clip).filter((clip) => !state.mask || state.mask[clip]);
    if (state.clips === "together") {
      const together = new Map(list.map((clip) => [clip, model.agreement(clip).together]));
      list.sort((a, b) => together.get(b) - together.get(a) || a - b);
    }
    const options = {data: "as in the data", together: "most agreement"};
    return el("div", {}, el("div", {class: "bar"}, el("h2", {}, plural(list.length, "clip")),
      model.timed.length > 1 ? ordering(options, state.clips, (value) => change({clips: value})) : ""),
      list.length ? long(list, (clip) => clipRow(clip, null), el("div", {class: "rows"}))
        : el("p", {class: "quiet"}, "No clip has all of these words."));
  }

  function example(one, clip, step) {
    const second = Math.floor(step * one.seconds), shown = el("figure", {});
    const what = one.source === "frames" ? picture(clip, second) : one.source === "sound" ? sound(clip, second, true)
      : null;
    if (one.name === "text") {
      const words = CMG.words && CMG.words[clip];
      shown.className = "said";
      shown.append(words ? el("blockquote", {}, ...words.flatMap((word, i) =>
        [i === step ? el("mark", {}, word) : word, " "])) : el("blockquote", {class: "quiet"}, `word ${step + 1}`));
    } else if (what) shown.append(what);
    shown.append(el("figcaption", {}, el("a", {href: clipLink(clip)}, CMG.ids[clip]),
      one.timed ? el("span", {class: "quiet"}, clock(second)) : ""));
    return shown;
  }

  function share(code, use) {
    const parts = model.shares(code, use);
    return el("div", {class: "shares"}, ...model.modalities.map((one, m) => {
      const n = use[m][code];
      return el("div", {}, el("span", {}, one.name), el("span", {class: "track"},
        el("i", {style: {width: `${100 * parts[m]}%`, background: one.colour}})), el("span", {class: "quiet"},
        `${percent(parts[m])} of its use · ${number(n)} of ${plural(model.steps[m], one.timed ? "second" : "word")}`));
    }));
  }

  function code(state, own) {
    if (!model.position.has(own)) {
      return el("div", {}, el("h2", {}, `Code ${own}`), el("p", {class: "quiet"},
        own < CMG.size ? "No clip uses this code." : `The codebook has ${number(CMG.size)} codes.`));
    }
    const labels = model.labelsOf(own).slice(0, 4), words = wordsOf(own);
    const within = Array.from({length: model.clips}, (_, clip) => clip)
      .filter((clip) => (!state.mask || state.mask[clip]) && model.has(clip, own));
    return el("article", {}, el("div", {class: "bar"}, el("h2", {}, pie(own, model.total), `Code ${own}`)),
      labels.length ? el("p", {}, ...labels.flatMap(([name, x]) =>
        [el("span", {class: "part"}, el("span", {class: "tag"}, name), el("span", {class: "quiet"}, percent(x))), " "]))
        : null,
      share(own, model.total),
      ...model.modalities.map((one) => {
        const found = typicalOf(one, own);
        if (!found.length) return null;
        return el("section", {class: "typical"},
          el("h3", {}, el("i", {class: "key", style: {background: one.colour}}), `Most typical: ${one.name}`),
          one.name === "text" && words.length ? el("p", {class: "cloud"}, ...words.map(([word, n]) =>
            el("span", {}, word, el("span", {class: "quiet"}, ` ${number(n)}`)))) : null,
          el("div", {class: one.name === "text" ? "examples texts" : "examples"},
            ...found.map(([clip, step]) => example(one, clip, step))));
      }),
      CMG.alike[model.position.get(own)].length ? el("section", {}, el("h3", {}, "Similar codes"), el("p", {class: "chips"},
        ...CMG.alike[model.position.get(own)].map((other) => chip(other, model.total)))) : null,
      el("section", {}, el("h3", {}, `In ${plural(within.length, "clip")}${state.mask ? " of those shown" : ""}`),
        long(within, (clip) => clipRow(clip, own), el("div", {class: "rows"}), 12)));
  }

  function clip(id) {
    const own = CMG.ids.indexOf(id);
    if (own < 0) return el("div", {}, el("h2", {}, id), el("p", {class: "quiet"}, "There is no clip of this name."));
    const {rows, same, together, paired} = model.agreement(own);
    const length = Math.max(0, ...rows.map((row) => row.length));
    const seconds = model.timed.length ? model.timed[0].seconds : 1;
    const every = Array.from({length}, (_, step) => step);
    const film = every.map((step) => picture(own, Math.floor(step * seconds)) ?? el("span", {}));
    const heard = every.map((step) => sound(own, Math.floor(step * seconds), false) ?? el("span", {}));
    const cell = (row, i, step) => row[step] === null || row[step] === undefined ? el("span", {class: "gap"}) : el("a", {
      class: same[i][step] ? "same" : "", href: codeLink(row[step]),
      "aria-label": `${model.timed[i].name} at ${clock(step * seconds)}: code ${row[step]}${same[i][step] ? ", agrees" : ""}`,
    }, row[step]);
    const line = (name, cells, kind, colour) => el("div", {class: `line ${kind}`},
      el("span", {class: "name"}, colour ? el("i", {class: "key", style: {background: colour}}) : "", name), ...cells);
    const text = model.text, words = text ? model.codesOf(text, own) : [];
    const elsewhere = new Set(rows.flat());
    const said = (CMG.words && CMG.words[own]) || words.filter((x) => x !== null).map((_, i) => `word ${i + 1}`);
    return el("article", {}, el("div", {class: "bar"}, el("h2", {}, id)),
      model.labelled(own).length ? el("p", {}, ...model.labelled(own).map((x) => el("span", {class: "tag"}, x))) : null,
      CMG.captions && CMG.captions[own] ? el("blockquote", {}, CMG.captions[own]) : null,
      length ? el("div", {class: "line-box", tabindex: "0", role: "group", "aria-label": "Time line of codes"},
        el("div", {class: "lines", style: {"--length": length}},
          line("", every.map((step) => el("span", {class: "quiet"}, clock(step * seconds))), "clock"),
          CMG.pictures[own] ? line("", film, "film-line") : null,
          ...rows.map((row, i) => line(model.timed[i].name, every.map((step) => cell(row, i, step)), "codes",
            model.timed[i].colour)),
          heard.some((one) => one.tagName === "BUTTON") ? line("sound", heard, "heard") : null)) : null,
      paired ? el("p", {}, together ? `The same code in ${together} of ${plural(paired, "second")}, which are filled.`
        : `No code is the same in any of ${plural(paired, "second")}.`) : null,
      text && said.length ? el("section", {}, el("h3", {}, el("i", {class: "key", style: {background: text.colour}}),
        "Words and their codes"), el("p", {class: "ruby"}, ...said.map((word, i) => el("a",
        {href: codeLink(words[i]), class: elsewhere.has(words[i]) ? "same" : ""}, word, el("small", {}, words[i])))),
        said.some((_, i) => elsewhere.has(words[i])) ? el("p", {class: "quiet"},
          "Words that are filled have the code of one of these seconds.") : null) : null,
      Object.keys(CMG.pictures).length && !CMG.pictures[own] ? el("p", {class: "quiet"},
        "Of this clip no pictures were kept, or its file could not be read.") : null);
  }

  return {el, number, percent, codeCard, inWords, codes, clips, code, clip};
})();
