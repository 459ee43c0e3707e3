"use strict";
// What became of single questions: cards that can be filtered and searched.

const PAGE_SIZE = 20;

function latentItem(latent, index) {
  const words = (latent.words ?? []).map(([word, cosine]) => {
    const chip = element("span", "word", word === "\n" ? "⏎" : word, element("small", "", cosine.toFixed(2)));
    chip.style.setProperty("--strength", `${Math.round(45 * Math.max(0, Math.min(1, cosine)))}%`);
    return chip;
  });
  const measures = [];
  if (typeof latent.std === "number") measures.push(`std ${latent.std.toPrecision(2)}`);
  if (typeof latent.p_stop === "number") measures.push(`P(stop) ${latent.p_stop.toFixed(2)}`);
  return element("li", "", element("span", "place", String(index + 1)), element("span", "words", ...words), element("span", "measures", measures.join("  ")));
}

function sampleCard(sample) {
  const facts = [
    sample.run, sample.dataset, sample.stage, sample.showsSpeed ? `speed ${sample.speed}` : "", sample.chosen_speed ? `chose speed ${sample.chosen_speed}` : "",
    sample.latent_limit ? `#L at most ${sample.latent_limit}` : "", sample.temperature ? `temperature ${sample.temperature}` : "",
    sample.trim ? `trimmed at ${sample.trim}` : "", `#L ${sample.length}`, sample.forced_stop ? "reasoning cut at its limit" : "", sample.cut_answer ? "answer cut at its limit" : "",
  ].filter(Boolean).map((text) => element("span", "", text));
  const card = element("article", "sample",
    element("div", "facts", ...facts),
    element("p", "", sample.question),
    element("p", "", element("span", `verdict ${sample.right ? "right" : "wrong"}`, sample.right ? "✓ " : "✗ ", sample.prediction || "(nothing)"),
      sample.right ? "" : element("span", "quiet", `   expected ${sample.answer}`)));
  if (sample.reasoning) card.append(element("pre", "", sample.reasoning));
  if (sample.text && sample.text !== `Answer:${sample.prediction}`) card.append(element("pre", "", sample.text));
  if (sample.latents?.length) {
    const list = element("ol", "latents", ...sample.latents.map(latentItem));
    card.append(element("details", "", element("summary", "", `${sample.latents.length} latents and the words nearest to them`), list));
  }
  return card;
}

function showSamples() {
  if (samples.length === 0) return;
  byId("samples-section").hidden = false;
  const withSpeed = new Set(report.results.filter((row) => row.speed !== "-").map((row) => stageOf(row)));
  for (const sample of samples) {
    sample.run ??= "";
    sample.showsSpeed = withSpeed.has(stageOf(sample));
    sample.haystack = [sample.question, sample.answer, sample.prediction, sample.text, sample.reasoning].join("\n").toLowerCase();
  }
  let numShown = PAGE_SIZE;
  const controls = byId("sample-controls"), changed = () => { numShown = PAGE_SIZE; draw(); };
  const filters = ["run", "dataset", "stage"].map((key) => [key, choice(controls, { run: "run", dataset: "data set", stage: "stage" }[key], unique(samples.map((sample) => sample[key])), changed, "all")]);
  const speeds = unique(samples.filter((sample) => sample.showsSpeed).map((sample) => sample.speed));
  const speed = choice(controls, "speed", speeds, changed, "all");
  const verdict = choice(controls, "answer", ["right", "wrong"], changed, "all");
  const search = element("input");
  search.type = "search";
  search.placeholder = "words in question or answer";
  search.addEventListener("input", changed);
  controls.append(element("label", "wide", "search", search));

  function draw() {
    const needle = search.value.trim().toLowerCase();
    const found = samples.filter((sample) =>
      filters.every(([key, value]) => !value() || sample[key] === value())
      && (!speed() || (sample.showsSpeed && sample.speed === speed()))
      && (!verdict() || sample.right === (verdict() === "right"))
      && sample.haystack.includes(needle));
    const left = samplesLeftOut ? ` (${samplesLeftOut.toLocaleString("en")} more are in samples.jsonl)` : "";
    const right = found.filter((sample) => sample.right).length;
    byId("sample-count").textContent = `${found.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")} samples, ${right.toLocaleString("en")} right${left}`;
    byId("samples").replaceChildren(...found.slice(0, numShown).map(sampleCard));
    byId("more").hidden = found.length <= numShown;
  }
  byId("more").addEventListener("click", () => { numShown += PAGE_SIZE; draw(); });
  draw();
}
