"use strict";
// Accuracy against #L as SVG, in the page's own colours.

const SVG = "http://www.w3.org/2000/svg";

function svgElement(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// About `count` round numbers from `low` to `high`.
function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i += 1) found.push(Number((i * step).toPrecision(6)));
  return found;
}

function pointLabel(point) {
  const parts = [], asterisk = point.was_trained ? "" : "*";
  if (point.speed !== "-") parts.push((point.speed === "auto" ? "auto" : `c = ${point.speed}`) + asterisk);
  if (point.latent_limit !== "-") parts.push(`≤ ${point.latent_limit}`);
  if (point.trim !== "-") parts.push(`trim ${point.trim}`);
  if (point.temperature !== "-") parts.push(`T = ${point.temperature}`);
  return parts.join(", ") || point.stage;
}

function drawPlot(container, points, colourOf) {
  const narrow = container.clientWidth < 520;
  const width = narrow ? 380 : 760, height = narrow ? 300 : 400;
  const edge = { left: 44, right: 24, top: 30, bottom: 40 };
  const ends = (point) => [point.accuracy.low ?? point.accuracy.center, point.accuracy.high ?? point.accuracy.center];
  const all = points.flatMap((point) => ends(point).map((share) => 100 * share));
  const longest = Math.max(1, ...points.map((point) => point.length)) * 1.12;
  const spread = Math.max(4, Math.max(...all) - Math.min(...all));
  const low = Math.max(0, Math.min(...all) - 0.08 * spread), high = Math.min(100, Math.max(...all) + 0.08 * spread);
  const shortest = -0.03 * longest;  // so that a point at 0 stands clear of the axis
  const x = (length) => edge.left + ((length - shortest) / (longest - shortest)) * (width - edge.left - edge.right);
  const y = (value) => height - edge.bottom - ((value - low) / (high - low)) * (height - edge.top - edge.bottom);

  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Accuracy in percent against number of positions of reasoning" });
  for (const value of ticks(low, high, 5)) {
    svg.append(svgElement("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }));
    svg.append(svgElement("text", { x: edge.left - 8, y: y(value) + 4, "text-anchor": "end" }, value));
  }
  for (const length of ticks(0, longest, narrow ? 5 : 8)) {
    svg.append(svgElement("text", { x: x(length), y: height - edge.bottom + 18, "text-anchor": "middle" }, length));
  }
  svg.append(svgElement("text", { x: 0, y: 12 }, "accuracy in %"));
  svg.append(svgElement("text", { x: width - edge.right, y: height - 6, "text-anchor": "end" }, "#L, positions of reasoning"));

  const front = points.filter((point) => point.on_line).sort((a, b) => a.length - b.length);
  const path = front.map((point) => `${x(point.length)},${y(100 * point.accuracy.center)}`).join(" ");
  svg.append(svgElement("polyline", { class: "front", points: path }));
  for (const point of points) {
    const style = `stroke: ${colourOf(point)}`, [from, to] = ends(point), at = x(point.length);
    svg.append(svgElement("line", { style, "stroke-width": 1.4, x1: at, x2: at, y1: y(100 * from), y2: y(100 * to) }));
    const circle = svgElement("circle", { cx: at, cy: y(100 * point.accuracy.center), r: 5.5, "stroke-width": 1.8, style });
    if (point.dominated) circle.setAttribute("class", "hollow");
    else circle.setAttribute("style", `${style}; fill: ${colourOf(point)}`);
    const share = (value) => (100 * value).toFixed(1);
    circle.append(svgElement("title", {}, `${point.name}: ${share(point.accuracy.center)} % [${share(from)}, ${share(to)}], #L ${point.length.toFixed(2)}`));
    svg.append(circle);
  }
  placeLabels(svg, points.map((point) => ({ text: pointLabel(point), x: x(point.length), y: y(100 * point.accuracy.center), colour: colourOf(point) })), width - edge.right);
  container.replaceChildren(svg);
}

// Each label where it covers no other and no point: below right of its point, where no front goes, else around it.
function placeLabels(svg, labels, right) {
  const taken = labels.map((label) => ({ left: label.x - 7, right: label.x + 7, top: label.y - 7, bottom: label.y + 7 }));
  for (const label of labels) {
    const size = 6.6 * label.text.length;
    const places = [[9, 14, "start"], [9, 4, "start"], [-9, 14, "end"], [-9, 4, "end"], [9, -8, "start"], [-9, -8, "end"]];
    const boxOf = ([dx, dy, anchor]) => {
      const left = anchor === "start" ? label.x + dx : label.x + dx - size;
      return { left, right: left + size, top: label.y + dy - 10, bottom: label.y + dy + 3 };
    };
    const isFree = (box) => box.right <= right + 20 && !taken.some((other) => other.left < box.right && box.left < other.right && other.top < box.bottom && box.top < other.bottom);
    const place = places.find((candidate) => isFree(boxOf(candidate))) ?? places[0];
    taken.push(boxOf(place));
    svg.append(svgElement("text", { x: label.x + place[0], y: label.y + place[1], "text-anchor": place[2], style: `fill: ${label.colour}` }, label.text));
  }
}
