// The gallery: any two networks' crops over each other, with differences, maps, scores and a sentence.
"use strict";
{
  const { make, choice, select, stage, scores, fill, TEXTURE } = window.taskLosses;
  const script = document.currentScript.src;

  function build(data, address) {
    const photographs = new Map(data.photographs.map((photograph) => [photograph.name, photograph]));
    const state = { task: data.tasks[0].key, entry: 0, left: "l1", right: "ours~1", view: "pictures" };
    const compare = stage(data.size);
    const parts = { photos: make("div"), sides: make("div", { class: "row" }), about: make("div"), whole: make("div", { class: "whole" }) };
    const task = () => data.tasks.find((each) => each.key === state.task);
    const entry = () => task().entries[state.entry];
    const name = (each) => each.case === "worst" ? "worst case" : each.photograph;

    function offer() {  // what can be chosen depends on the task
      state.entry = Math.min(state.entry, task().entries.length - 1);
      parts.photos.replaceChildren(choice("Photograph", task().entries.map((each, index) => [String(index), [
        make("img", { src: address(photographs.get(each.photograph).preview), alt: photographs.get(each.photograph).words }), name(each)]]),
      String(state.entry), (key) => { state.entry = Number(key); show(); }, "photos"));
      const rows = [...entry().images.map((image) => [image.row, image.title]), ["reference", "reference"]];
      for (const side of ["left", "right"]) if (!rows.some(([row]) => row === state[side])) state[side] = rows.at(-1)[0];
      parts.sides.replaceChildren(...["left", "right"].map((side) =>
        select(`${side} side`, rows, state[side], (row) => { state[side] = row; show(); })));
      show();
    }

    function show() {
      const found = entry(), photograph = photographs.get(found.photograph);
      const order = [...found.images.map((image) => image.row), "reference"];
      const titles = [...found.images.map((image) => image.title), "reference"];
      const side = (row) => ({ index: order.indexOf(row), title: titles[order.indexOf(row)] });
      const left = side(state.left), right = side(state.right), last = order.length - 1;
      const map = state.view === "map";
      const against = { pictures: null, map: null, reference: last, other: left.index }[state.view];
      const shown = map ? [left, right].map((each) => each.index === last ? { index: 0, title: "reference has no map: input" } : each) : [left, right];
      compare.show({
        sheet: address(map ? found.maps : found.sheet), left: shown[0], right: shown[1], against,
        words: `${{ pictures: "Crop", map: "Map of distances", reference: "Differences to the reference, four times", other: "Differences to the left side, four times" }[state.view]} at 300 %, ${photograph.words}: ${left.title} on the left, ${right.title} on the right`,
      });
      const [height, width] = photograph.size, [tall, wide] = data.size, percent = (part, all) => `${(100 * part) / all}%`;
      parts.whole.replaceChildren(
        make("img", { src: address(photograph.preview), alt: photograph.words, width: 240, height: Math.round(240 * height / width) }),
        make("span", { style: `top:${percent(found.place[0], height)};left:${percent(found.place[1], width)};height:${percent(tall, height)};width:${percent(wide, width)}` }));
      parts.about.replaceChildren(
        make("p", { class: "remark" }, found.remark || "No words about this picture yet."),
        scores(found.images.map((image) => ({ ...image, shown: [state.left, state.right].includes(image.row) })), [...data.metrics, TEXTURE]),
        make("p", { class: "small" }, `Scores are of the 256 x 256 pixels around the crop. ${found.case === "worst" ? "The crop is where ours at texture 1 loses most against L1 in squared error, of all photographs." : "The crop is where the photograph has most texture."} Photograph: ${photograph.source.split(":")[0]}, ${photograph.licence}.`));
    }

    offer();
    return [
      choice("Task", data.tasks.map((each) => [each.key, each.title]), state.task, (key) => { state.task = key; offer(); }),
      parts.photos, parts.sides,
      choice("View", [["pictures", "pictures"], ["reference", "difference to the reference, 4 times"], ["other", "difference to the left side, 4 times"], ["map", `distance map`]], state.view, (key) => { state.view = key; show(); }),
      make("div", { class: "stages" }, compare.element, parts.whole), parts.about,
    ];
  }

  fill("task-losses-gallery", script, "gallery.json", build);
}
