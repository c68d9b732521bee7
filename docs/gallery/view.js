// What the gallery and the page to play with share: elements, choices, and a stage that compares two crops of a sheet.
"use strict";
window.taskLosses = (() => {
  /** An element: attributes, listeners as functions under onNAME, and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /** A row of buttons of which one is pressed. options: [[key, label], ...]; a label is text or an element. */
  function choice(title, options, chosen, onchoose, kind = "") {
    const buttons = options.map(([key, label]) => make("button", {
      type: "button", "data-key": key, "aria-pressed": String(key === chosen),
      onclick: () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.key === key));
        onchoose(key);
      },
    }, ...[].concat(label)));
    return make("fieldset", { class: kind }, make("legend", {}, title), ...buttons);
  }

  function select(title, options, chosen, onchoose) {
    const list = make("select", { onchange: () => onchoose(list.value) },
      ...options.map(([key, label]) => make("option", { value: key }, label)));
    list.value = chosen;
    return make("label", {}, title, list);
  }

  /** Calls onmove with the pointer's place in an element, from 0 to 1 across and down, while it is pressed. */
  function follow(element, onmove) {
    const move = (event) => {
      const box = element.getBoundingClientRect();
      onmove((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    element.addEventListener("pointerdown", (event) => { element.setPointerCapture(event.pointerId); move(event); });
    element.addEventListener("pointermove", (event) => { if (element.hasPointerCapture(event.pointerId)) move(event); });
  }

  /**
   * Two crops of a sheet over each other, a line between them, and a slider that moves it.
   * show({sheet, left, right, against, words}): sheet is an address; left and right are {index, title}; against is the
   * index of the crop that both are subtracted from, or null.
   */
  function stage(size) {
    const [height, width] = size;
    const layers = ["left", "right"].map((side) => make("div", { class: `layer ${side}` }));
    const tags = ["left", "right"].map((side) => make("span", { class: `tag of-${side}` }));
    const picture = make("div", { class: "stage", role: "img" }, ...layers, make("div", { class: "handle" }), ...tags);
    const slider = make("input", { type: "range", min: 0, max: 100, value: 50, class: "split", "aria-label": "How much of the left picture is shown" });
    const whole = make("div", { style: `--w:${width};--h:${height}` }, picture, make("div", { class: "control" }, slider));
    const split = () => {
      picture.style.setProperty("--split", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} % of ${tags[0].textContent}`);
    };
    slider.addEventListener("input", split);
    follow(picture, (x) => { slider.value = Math.round(100 * Math.min(1, Math.max(0, x))); split(); });
    function show({ sheet, left, right, against = null, words }) {
      [left, right].forEach((side, number) => {
        const layer = layers[number];
        layer.classList.toggle("difference", against !== null);
        layer.style.setProperty("--i", side.index);
        layer.style.setProperty("--j", against ?? 0);
        layer.style.backgroundImage = against === null ? `url("${sheet}")` : `url("${sheet}"), url("${sheet}")`;
        tags[number].textContent = side.title;
      });
      picture.setAttribute("aria-label", words);
      split();
    }
    return { element: whole, show };
  }

  /** Scores as a table. rows: [{title, scores, shown}]; metrics: [{key, title, higher, digits}]. */
  function scores(rows, metrics) {
    const number = (metric, value) => value === undefined ? "" : metric.percent ? `${Math.round(100 * value)} %` : value.toFixed(metric.digits);
    return make("div", { class: "scroll" }, make("table", { class: "figures" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, ""),
        ...metrics.map((metric) => make("th", { scope: "col" }, `${metric.title}${metric.percent ? "" : metric.higher ? " ↑" : " ↓"}`)))),
      make("tbody", {}, ...rows.map((row) => make("tr", { class: row.shown ? "shown" : null }, make("td", {}, row.title),
        ...metrics.map((metric) => make("td", {}, number(metric, row.scores[metric.key]))))))));
  }

  /** Fills the element with an id: reads the data file beside the script, and says so where that fails. */
  async function fill(id, script, file, build) {
    const place = document.getElementById(id);
    if (!place || place.dataset.filled) return;
    place.dataset.filled = "yes";
    try {
      const answer = await fetch(new URL(file, script));
      if (!answer.ok) throw new Error(`${file}: ${answer.status}`);
      place.replaceChildren(...await build(await answer.json(), (name) => new URL(name, script).href));
    } catch (error) {
      place.textContent = `The data of this page could not be read (${error.message}). Serve the folder by a web server: python -m http.server.`;
    }
  }

  return { make, choice, select, follow, stage, scores, fill, TEXTURE: { key: "texture", title: "texture kept", percent: true } };
})();
