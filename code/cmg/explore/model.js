"use strict";
// What data.js says, ready to be asked: codes as arrays, who uses which code, which clips a filter leaves.

const model = (() => {
  const kinds = {1: Uint8Array, 2: Uint16Array, 4: Uint32Array};
  const clips = CMG.ids.length;
  const none = CMG.size; // in the place of a code: the step does not exist
  const position = new Map(CMG.used.map((code, i) => [code, i])); // of a code among those in use

  function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new kinds[CMG.bytes](bytes.buffer); // every machine that runs browsers is little-endian, as the file is
  }

  const modalities = CMG.modalities.map((one) => ({...one, codes: unpack(one.codes)}));
  const timed = modalities.filter((one) => one.timed);
  const text = modalities.find((one) => one.name === "text");
  const labelled = (clip) => CMG.labelled ? CMG.labelled[clip].map((n) => CMG.labels[n]) : [];
  const haystack = CMG.ids.map((id, clip) =>
    [id, CMG.captions ? CMG.captions[clip] : "", ...labelled(clip)].join("\n").toLowerCase());

  // How often each modality uses each code, [modality][code], in the clips that `mask` marks.
  function counts(mask) {
    return modalities.map((one) => {
      const found = new Uint32Array(CMG.size + 1);
      for (let clip = 0, at = 0; clip < clips; clip++, at += one.length) {
        if (mask && !mask[clip]) continue;
        for (let step = at; step < at + one.length; step++) found[one.codes[step]]++;
      }
      return found;
    });
  }

  const total = counts(null);
  const steps = total.map((own) => own.reduce((sum, n) => sum + n, 0) - own[none]);

  // The modalities' shares in the use of a code: each counts by its frequency, however many steps it has.
  function shares(code, use = total) {
    const frequency = use.map((own, m) => own[code] / Math.max(steps[m], 1));
    const sum = frequency.reduce((a, b) => a + b, 0);
    return frequency.map((f) => sum ? f / sum : 0);
  }

  const uses = (code, use = total) => use.reduce((sum, own) => sum + own[code], 0);

  // What a code adds to the overlaps of the modalities' histograms, over all pairs.
  function overlap(code, use = total) {
    const frequency = use.map((own, m) => own[code] / Math.max(steps[m], 1));
    let sum = 0;
    frequency.forEach((a, i) => frequency.slice(i + 1).forEach((b) => { sum += Math.min(a, b); }));
    return sum;
  }

  function has(clip, code) {
    return modalities.some((one) => {
      for (let step = 0; step < one.length; step++) if (one.codes[clip * one.length + step] === code) return true;
      return false;
    });
  }

  // Uint8Array of clips that have all words of a query and a label; null if nothing is asked.
  function match(query, label) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length && label < 0) return null;
    const codes = words.filter((word) => /^#\d+$/.test(word)).map((word) => Number(word.slice(1)));
    const plain = words.filter((word) => !/^#\d+$/.test(word));
    const mask = new Uint8Array(clips);
    for (let clip = 0; clip < clips; clip++) {
      mask[clip] = (label < 0 || CMG.labelled[clip].includes(label))
        && plain.every((word) => haystack[clip].includes(word)) && codes.every((code) => has(clip, code)) ? 1 : 0;
    }
    return mask;
  }

  // The codes of a clip in a modality, null for a step that does not exist.
  function codesOf(one, clip) {
    return Array.from(one.codes.subarray(clip * one.length, (clip + 1) * one.length), (c) => c === none ? null : c);
  }

  // Which steps of a clip have the same code in another timed modality, [timed modality][step], and how many do.
  function agreement(clip) {
    const rows = timed.map((one) => codesOf(one, clip));
    const same = rows.map((row, i) => row.map((code, step) =>
      code !== null && rows.some((other, j) => j !== i && other[step] === code)));
    const length = Math.max(0, ...rows.map((row) => row.length));
    let together = 0, paired = 0;
    for (let step = 0; step < length; step++) {
      if (rows.filter((row) => row[step] != null).length > 1) paired++;
      if (same.some((row) => row[step])) together++;
    }
    return {rows, same, together, paired};
  }

  // Which labels the clips have that use a code, [[label, share], …] by steps, most frequent first.
  let byLabel = null;
  function labelsOf(code) {
    if (!CMG.labels.length) return [];
    if (!byLabel) {
      byLabel = new Uint32Array(CMG.labels.length * (CMG.size + 1));
      for (const one of modalities) for (let at = 0; at < one.codes.length; at++) {
        for (const label of CMG.labelled[Math.floor(at / one.length)]) byLabel[label * (CMG.size + 1) + one.codes[at]]++;
      }
    }
    const all = CMG.labels.map((name, label) => [name, byLabel[label * (CMG.size + 1) + code]]);
    const sum = uses(code);
    return all.filter(([, n]) => n).sort((a, b) => b[1] - a[1]).map(([name, n]) => [name, n / sum]);
  }

  const order = Object.fromEntries(["shared", "used", "number"].map((by) => [by, (use) => {
    const value = {shared: (code) => overlap(code, use), used: (code) => uses(code, use), number: (code) => -code}[by];
    const values = new Map(CMG.used.map((code) => [code, value(code)]));
    return CMG.used.filter((code) => uses(code, use))
      .sort((a, b) => values.get(b) - values.get(a) || uses(b, use) - uses(a, use) || a - b);
  }]));

  return {clips, modalities, timed, text, total, steps, position, labelled, counts, shares, uses, overlap, has, match,
    codesOf, agreement, labelsOf, order};
})();
