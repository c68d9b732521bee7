// To play with: a distortion's strength, the dial, and where a loss pulls.
"use strict";
{
  const { make, choice, stage, scores, follow, fill, TEXTURE } = window.taskLosses;
  const script = document.currentScript.src;
  const HUES = { sr: "#e8590c", denoise: "#1c7ed6", jpeg: "#2f9e44", l1: "#868e96", ssim: "#ae3ec9" };
  const DASHES = { sr: "", denoise: "8 3", jpeg: "3 3", l1: "", ssim: "10 3 2 3" };  // colour is not all that tells lines apart

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** A slider over named stops. */
  function stops(title, labels, value, onmove) {
    const words = make("output", {});
    const slider = make("input", { type: "range", min: 0, max: labels.length - 1, step: 1, value });
    const move = () => {
      words.textContent = labels[slider.value];
      slider.setAttribute("aria-valuetext", labels[slider.value]);
      onmove(Number(slider.value));
    };
    slider.addEventListener("input", move);
    return [make("label", { class: "stops" }, make("span", {}, `${title}: `, words), slider), move];
  }

  /** First part: how the losses react to the strength of a distortion. */
  function strengths(data, address) {
    const state = { photograph: 0, distortion: "jpeg", stop: 5 };
    const compare = stage(data.size), control = make("div", { class: "control" }), figures = make("div"), chart = make("div");
    const photograph = () => data.strengths[state.photograph];
    const distortion = () => photograph().distortions.find((each) => each.key === state.distortion);

    function lines() {
      const width = 420, height = 220, left = 40, bottom = 24, top = 8, found = distortion().stops;
      const low = 0.1, high = 3;  // all that occurs lies between; a logarithmic scale, for it is about factors
      const x = (index) => left + ((width - left - 8) * index) / (found.length - 1);
      const y = (value) => top + ((height - top - bottom) * Math.log(high / Math.min(high, Math.max(low, value)))) / Math.log(high / low);
      const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Chart of the figures in the table, over all strengths" });
      for (const level of [0.1, 0.25, 0.5, 1, 2, 3]) {
        picture.append(svg("line", { x1: left, x2: width, y1: y(level), y2: y(level), stroke: "currentColor", "stroke-opacity": level === 1 ? 0.7 : 0.15 }),
          svg("text", { x: left - 4, y: y(level) + 4, "text-anchor": "end" }, String(level)));
      }
      picture.append(svg("line", { x1: x(state.stop), x2: x(state.stop), y1: top, y2: height - bottom, stroke: "currentColor", "stroke-opacity": 0.5 }));
      for (const { key } of data.measures) {
        const points = found.map((stop, index) => `${x(index)},${y(stop.times[key])}`).join(" ");
        picture.append(svg("polyline", { points, fill: "none", stroke: HUES[key], "stroke-width": 2.5, "stroke-dasharray": DASHES[key] }),
          svg("circle", { cx: x(state.stop), cy: y(found[state.stop].times[key]), r: 4, fill: HUES[key] }));
      }
      picture.append(svg("text", { x: left, y: height - 6 }, found[0].label), svg("text", { x: width, y: height - 6, "text-anchor": "end" }, found.at(-1).label));
      return picture;
    }

    function show() {
      const stop = distortion().stops[state.stop], last = photograph().distortions.at(-1).stops.at(-1).index + 1;
      const title = `${distortion().title}, ${stop.label}`;
      compare.show({ sheet: address(photograph().sheet), left: { index: stop.index, title }, right: { index: last, title: "original" },
        words: `Crop at 300 %, ${photograph().words}: ${title} on the left, the original on the right` });
      const sample = (key) => svg("svg", { width: 34, height: 10, "aria-hidden": "true", style: "display:inline-block" },
        svg("line", { x1: 0, x2: 34, y1: 5, y2: 5, stroke: HUES[key], "stroke-width": 3, "stroke-dasharray": DASHES[key] }));
      figures.replaceChildren(make("div", { class: "scroll" }, make("table", { class: "reactions" },
        make("thead", {}, make("tr", {}, ...["", "value", "times noise of equal PSNR"].map((each) => make("th", { scope: "col" }, each)))),
        make("tbody", {}, ...data.measures.map(({ key, title }) => make("tr", {}, make("td", {}, sample(key), ` ${title}`),
          make("td", {}, stop.values[key].toPrecision(3)), make("td", {}, stop.times[key].toFixed(2))))))),
      make("p", { class: "small" }, `PSNR here: ${stop.psnr.toFixed(1)} dB.`));
      chart.replaceChildren(lines());
    }

    function slide() {
      const [element, move] = stops("Strength", distortion().stops.map((stop) => stop.label), state.stop, (stop) => { state.stop = stop; show(); });
      control.replaceChildren(element);
      move();
    }
    slide();
    return make("section", { "data-part": "strength" },
      ...(data.strengths.length > 1 ? [choice("Photograph", data.strengths.map((each, index) => [String(index), each.photograph]), "0", (key) => { state.photograph = Number(key); slide(); })] : []),
      choice("Distortion", photograph().distortions.map((each) => [each.key, each.title]), state.distortion, (key) => { state.distortion = key; slide(); }),
      make("div", { class: "stages" }, make("div", { style: `--w:${data.size[1]}` }, compare.element, control), make("div", { class: "beside" }, figures, chart)));
  }

  /** Second part: the dial, from the gallery's pictures. */
  function dial(gallery, address) {
    const state = { task: gallery.tasks[0].key, entry: 0, setting: "ours~1" };
    const compare = stage(gallery.size), control = make("div", { class: "control" }), photos = make("div"), figures = make("div");
    const task = () => gallery.tasks.find((each) => each.key === state.task);
    const entry = () => task().entries[state.entry];
    const settings = () => entry().images.filter((image) => image.row.startsWith("ours~"));
    const photograph = () => gallery.photographs.find((each) => each.name === entry().photograph);

    function show() {
      const found = entry(), image = settings().find((each) => each.row === state.setting), plain = found.images.find((each) => each.row === "l1");
      const index = (row) => found.images.findIndex((each) => each.row === row);
      compare.show({ sheet: address(found.sheet), left: { index: index("l1"), title: "L1" }, right: { index: index(image.row), title: image.title },
        words: `Crop at 300 %, ${photograph().words}: L1 on the left, ${image.title} on the right` });
      const change = gallery.metrics.map((metric) => {
        const by = image.scores[metric.key] - plain.scores[metric.key];
        return `${metric.title} ${by < 0 ? "−" : "+"}${Math.abs(by).toFixed(metric.digits)}`;
      });
      figures.replaceChildren(make("p", { "aria-live": "polite" }, `Against L1, around this crop: ${change.join(", ")}.`),
        scores([plain, ...settings()].map((each) => ({ ...each, shown: each === image || each === plain })), [...gallery.metrics, TEXTURE]));
    }

    function offer() {
      state.entry = Math.min(state.entry, task().entries.length - 1);
      photos.replaceChildren(choice("Photograph", task().entries.map((each, index) => [String(index), each.case === "worst" ? "worst case" : each.photograph]),
        String(state.entry), (key) => { state.entry = Number(key); slide(); }));
      slide();
    }

    function slide() {
      const labels = settings().map((image) => image.row.slice("ours~".length));
      const rows = settings().map((image) => image.row);
      const [element, move] = stops("texture", labels, Math.max(0, rows.indexOf(state.setting)), (stop) => { state.setting = rows[stop]; show(); });
      control.replaceChildren(element);
      move();
    }
    offer();
    return make("section", { "data-part": "dial" },
      choice("Task", gallery.tasks.map((each) => [each.key, each.title]), state.task, (key) => { state.task = key; offer(); }), photos,
      make("div", { class: "stages" }, make("div", { style: `--w:${gallery.size[1]}` }, compare.element, control), make("div", { class: "beside" }, figures)));
  }

  /** Third part: a square of a picture, what each loss would gain by it, and where it pulls there. */
  function pulls(data, address) {
    const side = data.across * data.square, small = 8;
    const state = { task: data.pulls[0].key, measure: data.measures[0].key, view: "restored", row: 4, column: 4 };
    const found = () => data.pulls.find((each) => each.key === state.task);
    const number = () => data.measures.findIndex((each) => each.key === state.measure);
    const title = () => data.measures[number()].title;
    const layer = make("div", { class: "layer" }), mark = make("div", { class: "mark" }), grid = make("div", { class: "shares", "aria-hidden": "true" });
    const picture = make("div", { class: "stage pick", role: "img" }, layer, grid, mark);
    const near = make("div", { class: "near" }), words = make("div", { "aria-live": "polite" });
    const sliders = ["row", "column"].map((name) => {
      const slider = make("input", { type: "range", min: 0, max: data.across - 1, step: 1, value: state[name], "data-axis": name,
        oninput: () => { state[name] = Number(slider.value); show(); } });
      return make("label", { class: "stops" }, `Square's ${name}`, slider);
    });
    follow(picture, (x, y) => {
      const at = (share) => Math.min(data.across - 1, Math.max(0, Math.floor(share * data.across)));
      [state.row, state.column] = [at(y), at(x)];
      sliders.forEach((label) => { const slider = label.querySelector("input"); slider.value = state[slider.dataset.axis]; });
      show();
    });

    function show() {
      const sheet = `url("${address(found().sheet)}")`, shares = found().shares;
      const index = { restored: 0, reference: 1, pull: 2 + number(), shares: 0 }[state.view];
      layer.style.backgroundImage = sheet;
      layer.style.setProperty("--i", index);
      const most = Math.max(...shares[state.measure].flat());
      grid.replaceChildren(...(state.view === "shares" ? shares[state.measure].flat().map((share) =>
        make("span", { style: `background:rgb(255 120 0 / ${(0.85 * Math.max(0, share)) / most})` })) : []));
      const cell = 100 / data.across;
      mark.style.cssText = `top:${state.row * cell}%;left:${state.column * cell}%;width:${cell}%;height:${cell}%`;
      const view = { restored: found().titles[0], reference: "reference", pull: found().titles[2 + number()], shares: `what ${title()} would gain by each square` }[state.view];
      picture.setAttribute("aria-label", `${data.pulled}: ${view}; the square in row ${state.row + 1}, column ${state.column + 1} is marked`);
      const tiles = [[0, "restored"], [1, "reference"], [2 + number(), "pull"]];
      near.replaceChildren(...tiles.map(([each, label]) => make("figure", {}, make("div", { role: "img",
        "aria-label": `The square, ${label}`,
        style: `width:${small * data.square}px;height:${small * data.square}px;background-image:url("${address(found().sheet)}");` +
          `background-size:${small * side}px auto;background-position:${-small * data.square * state.column}px ${-small * (side * each + data.square * state.row)}px` }),
      make("figcaption", {}, label))));
      const even = 1 / data.across ** 2;
      const longest = Math.max(even, ...data.measures.map((each) => shares[each.key][state.row][state.column]));
      words.replaceChildren(make("p", {}, "If this square became the reference's, each loss would fall by this part of itself:"),
        make("table", { class: "gains" }, make("tbody", {}, ...data.measures.map((each) => {
          const share = shares[each.key][state.row][state.column];
          return make("tr", { class: each.key === state.measure ? "shown" : null }, make("td", {}, each.title), make("td", {}, `${(100 * share).toFixed(1)} %`),
            make("td", {}, make("span", { class: "bar", style: `width:${(8 * Math.max(0, share)) / longest}em` })));
        }))), make("p", { class: "small" }, `An even share of all ${data.across ** 2} squares is ${(100 * even).toFixed(1)} %.`));
    }
    show();
    return make("section", { "data-part": "pull" },
      choice("Task", data.pulls.map((each) => [each.key, each.title]), state.task, (key) => { state.task = key; show(); }),
      choice("Loss", data.measures.map((each) => [each.key, each.title]), state.measure, (key) => { state.measure = key; show(); }),
      choice("View", [["restored", "restored"], ["reference", "reference"], ["pull", "pull of the loss"], ["shares", "gain by square"]], state.view, (key) => { state.view = key; show(); }),
      make("div", { class: "stages" }, make("div", { style: `--w:${side};--h:${side}` }, picture, make("div", { class: "control" }, ...sliders)),
        make("div", { class: "beside" }, near, words)));
  }

  fill("task-losses-strength", script, "explore.json", (data, address) => [strengths(data, address)]);
  fill("task-losses-dial", script, "../gallery/gallery.json", (data, address) => [dial(data, (name) => address(`../gallery/${name}`))]);
  fill("task-losses-pull", script, "explore.json", (data, address) => [pulls(data, address)]);
}
