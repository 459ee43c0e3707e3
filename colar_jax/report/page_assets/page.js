"use strict";
// What is on the page. All text becomes text nodes: nothing that a question says is ever markup.

const { report, tables, samples, samplesLeftOut } = JSON.parse(document.getElementById("data").textContent);

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const stageOf = (row) => `${row.run ?? ""}:${row.stage}`;
const percent = (share) => (100 * share).toFixed(1);

// Controls: a labelled choice of the values that there are; none where there is only one.

function choice(container, label, values, onChange, all) {
  const options = all ? [all, ...values] : values;
  if (values.length < 2) return () => (all ? "" : values[0]);
  const select = element("select", "", ...options.map((text, i) => { const option = element("option", "", text); option.value = all && i === 0 ? "" : text; return option; }));
  select.addEventListener("change", onChange);
  container.append(element("label", "", label, select));
  return () => select.value;
}

function showPlot() {
  const stages = unique(report.pareto.map(stageOf));
  const colourOf = (point) => `var(--c${stages.indexOf(stageOf(point)) % 6})`;
  const draw = () => drawPlot(byId("plot"), report.pareto.filter((point) => point.dataset === dataset() && point.sampling === sampling()), colourOf);
  const dataset = choice(byId("plot-controls"), "data set", unique(report.pareto.map((point) => point.dataset)), draw);
  const samplings = unique(report.pareto.map((point) => point.sampling));
  const sampling = choice(byId("plot-controls"), "decoding", samplings, draw);
  draw();
  window.addEventListener("resize", draw);
  const names = new Map(report.pareto.map((point) => [stageOf(point), point.run ? `${point.run}: ${point.stage}` : point.stage]));
  byId("plot").after(element("div", "legend", ...[...names].map(([stage, name]) => {
    const entry = element("span", "", name);
    entry.style.setProperty("--colour", `var(--c${stages.indexOf(stage) % 6})`);
    return entry;
  })));
}

function showTiming() {
  const { timing, made } = report, sentences = [];
  if (timing) {
    sentences.push(`${timing.num_decoded.toLocaleString("en")} examples decoded in ${timing.seconds.toFixed(1)} s`
      + ` (${timing.examples_per_second.toPrecision(3)} a second, host ${percent(timing.host_share)} %),`
      + ` ${timing.num_compiled} programs compiled in ${timing.compile_seconds.toFixed(1)} s.`);
  }
  if (made) {
    sentences.push(`Made ${made.date.slice(0, 10)} by colar_jax ${made.version}${made.git_commit ? ` (${made.git_commit.slice(0, 12)})` : ""},`
      + ` jax ${made.jax}, on ${made.num_devices} x ${made.devices.join(", ")}.`);
  }
  byId("timing").textContent = sentences.join(" ");
}

document.getElementById("title").textContent = report.title;
byId("summary").textContent = report.summary;
byId("notes").textContent = report.notes;
showTables();
showPlot();
showSamples();
showTiming();
