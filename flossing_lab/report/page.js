// Draws the figures of the page from the data in it. Text from outside reaches the page as text, never as HTML; and
// since Plotly reads some HTML in names, `plain` is between.
(() => {
  "use strict";

  const STAGES = { start: "at the start", after_preflossing: "after preflossing", end: "after training" };
  const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
  const MOST_NAMES = 12;

  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const diverging = () => [[0, "#2166ac"], [0.25, "#6aaed6"], [0.5, ink("middle")], [0.75, "#f0916b"], [1, "#b2182b"]];
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
  const chosen = (id) => Number(find(id)?.value ?? 0);
  const detail = () => data.details[chosen("run")];

  // ---- drawing -----------------------------------------------------------------------------------------------------

  function axis(title, more = {}) {
    const lines = { gridcolor: ink("grid"), linecolor: ink("faint"), zerolinecolor: ink("faint") };
    return { title: { text: title, standoff: 8 }, automargin: true, ...lines, ...more };
  }

  function draw(id, traces, xaxis, yaxis, more = {}) {
    const place = find(id);
    const layout = {
      xaxis, yaxis, width: place.clientWidth, height: place.clientHeight,
      margin: { l: 48, r: 12, t: 12, b: 44 },
      paper_bgcolor: ink("paper"), plot_bgcolor: ink("paper"),
      font: { family: "system-ui, sans-serif", size: 12, color: ink("ink") },
      hoverlabel: { bgcolor: ink("paper"), bordercolor: ink("faint"), font: { color: ink("ink") }, namelength: -1 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hovermode: "x unified", hoverdistance: -1,
      // A finger that scrolls the page must not zoom into a figure.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      // What a person has zoomed into stays, until another run or plot is chosen.
      uirevision: ["run", "curves-choice", "final-choice"].map(chosen).join(),
      ...more,
    };
    Plotly.react(place, traces, layout, { displayModeBar: false });
  }

  // Draws figures from their content, or says in its place why there is none. Figures that no run has are not there.
  function show(ids, content, drawing) {
    if (!find(ids[0])) return;
    const missing = typeof content === "string";
    for (const id of ids) {
      find(id).hidden = missing;
      find(`${id}-missing`).hidden = !missing;
      find(`${id}-missing`).textContent = missing ? content : "";
    }
    if (!missing) drawing(content);
  }

  function line(name, x, y, colour, more = {}) {
    const { dash = "solid", width = 1.8, ...rest } = more;
    return { type: "scatter", mode: "lines", name: plain(name), x, y, line: { color: colour, dash, width }, ...rest };
  }

  // A median with the band between the quartiles, which comes and goes with it.
  function band({ name, colour, dash, x }, { y, low, high }, more = {}) {
    const edge = { legendgroup: plain(name), showlegend: false, hoverinfo: "skip", width: 0 };
    const shade = { ...edge, fill: "tonexty", fillcolor: `${colour}2e` };
    const edges = low ? [line(name, x, low, colour, edge), line(name, x, high, colour, shade)] : [];
    return [...edges, line(name, x, y, colour, { dash, legendgroup: plain(name), ...more })];
  }

  // One line for each group. Of more lines than a person can tell apart, which have the colours of a scale, the first
  // and the last are named, and each is where the pointer is.
  const readable = (lines) => lines.length <= MOST_NAMES;
  const hovermode = (lines) => (readable(lines) ? "x unified" : "closest");

  function overlay(lines, kind, more) {
    const isNamed = (at) => lines.length > 1 && (readable(lines) || at % (lines.length - 1) === 0);
    return lines.flatMap((each, at) => band(each, each[kind], { showlegend: isNamed(at), ...more }));
  }

  // ---- all runs ----------------------------------------------------------------------------------------------------

  function drawFinal() {
    if (!data.final) return;
    const { lines } = data.final.plots[chosen("final-choice")];
    const traces = overlay(lines, "accuracy", { mode: "lines+markers" });
    // On a logarithmic axis, ticks at the values themselves.
    const scale = data.final.log ? { type: "log", tickvals: lines[0].x } : {};
    const x = axis(plain(data.final.axis), scale);
    draw("final", traces, x, accuracyAxis(lines), { hovermode: hovermode(lines) });
  }

  function drawCurves() {
    show(["accuracy", "loss"], data.curves, ({ plots }) => {
      const { lines } = plots[chosen("curves-choice")];
      const traces = (kind) => overlay(lines, kind, { hovertemplate: "%{y:.3g}" });
      const shapes = lines.flatMap((each, at) => triangles(each, readable(lines) ? at : 0));
      const more = { shapes, hovermode: hovermode(lines) };
      draw("accuracy", traces("accuracy"), axis("training epoch"), accuracyAxis(lines), more);
      draw("loss", traces("loss"), axis("training epoch"), lossAxis(lines), more);
    });
  }

  function accuracyAxis(lines) {
    const isShare = lines.every(({ accuracy }) => accuracy.y.every((value) => value === null || (value >= 0 && value <= 1)));
    const clipped = isShare ? { clipmin: 0, clipmax: 1.02 } : {};
    return axis("accuracy", { autorangeoptions: { include: [0.42, 1], ...clipped } });
  }
  // Within less than a decade, a logarithmic axis may have no tick.
  function lossAxis(lines) {
    const values = lines.flatMap(({ loss }) => loss.y).filter((value) => value > 0);
    const largest = values.reduce((a, b) => Math.max(a, b), 0);
    const isNarrow = largest < 5 * values.reduce((a, b) => Math.min(a, b), Infinity);
    return isNarrow ? axis("loss", { tickformat: "~g" }) : logarithmic("loss", { dtick: "D2" });
  }

  const logarithmic = (title, more = {}) => axis(title, { type: "log", tickformat: "~g", ...more });

  // One row of triangles a line, at the foot of the figure, where it was flossed.
  function triangles({ blocks, colour }, row) {
    return blocks.map((epoch) => ({
      type: "path", path: "M -4 -7 L 4 -7 L 0 0 Z", fillcolor: colour, line: { width: 0 },
      xsizemode: "pixel", xanchor: epoch, ysizemode: "pixel", yref: "paper", yanchor: 0.01 + 0.03 * row,
    }));
  }

  // ---- one run -----------------------------------------------------------------------------------------------------

  function drawExponents() {
    const { exponents, squares, spectra } = detail();
    show(["exponents", "lines"], exponents, (content) => {
      const { training, flossing, index } = content;
      const time = training.map((epochs, at) => epochs + flossing[at]);
      const moment = training.map((epochs, at) => moments(epochs, flossing[at]));
      const x = () => axis("epochs, training and flossing", { range: [time[0], time.at(-1)] });
      const shade = { type: "rect", yref: "paper", layer: "below", fillcolor: ink("shade"), line: { width: 0 } };
      const shaded = (y0, y1) => blocks(content).map(([x0, x1]) => ({ ...shade, x0, x1, y0, y1 }));
      const most = largest(content.exponents.flat());
      const heat = {
        type: "heatmap", x: time, y: index, z: content.exponents, zmin: -most, zmax: most, colorscale: diverging(),
        text: content.exponents.map(() => moment), hovertemplate: "λ%{y} = %{z}<br>%{text}<extra></extra>",
        colorbar: { thickness: 12, outlinewidth: 0, title: { text: "λ" } },
      };
      const down = axis("index i", { autorange: "reversed" });
      draw("exponents", [heat], x(), down, { shapes: shaded(1.01, 1.04), hovermode: "closest" });
      const some = content.lines.map((row, rank) => (
        line(`λ${index[row]}`, time, content.exponents[row], PALETTE[rank])
      ));
      draw("lines", some, x(), axis("exponent λ per step"), { shapes: shaded(0, 1) });
    });
    show(["squares"], squares, ({ x, mean, lines, starts }) => {
      const some = Object.entries(lines).map(([index, values], rank) => (
        line(`λ${index}`, x, values, PALETTE[rank], { width: 1 })
      ));
      const traces = [line("mean of all", x, mean, ink("ink"), { width: 2.5 }), ...some];
      const shapes = starts.map((start) => rule({ x0: start, x1: start, yref: "paper", y0: 0, y1: 1 }, "dot"));
      // An exponent that crosses its target has a square near zero there, which is not worth the room.
      const room = { autorangeoptions: { clipmin: Math.min(...mean.filter((value) => value)) / 100 } };
      draw("squares", traces, axis("flossing epoch"), logarithmic("squared distance", room), { shapes });
    });
    show(["spectra"], spectra, (content) => {
      const traces = inStages(content, (values, name, colour) => (
        [line(name, values.map((_, at) => at + 1), values, colour, { hovertemplate: "%{y}" })]
      ));
      draw("spectra", traces, axis("index i"), axis("exponent λ per step"));
    });
  }

  function drawFeedback() {
    const { gradients, horizons } = detail();
    show(["gradients"], gradients, ({ lines, clip }) => {
      const traces = Object.entries(lines).map(([name, { x, y }], rank) => (
        line(name, x, y, PALETTE[rank % PALETTE.length])
      ));
      const shapes = clip ? [rule({ xref: "paper", x0: 0, x1: 1, y0: clip, y1: clip }, "dash")] : [];
      draw("gradients", traces, axis("training epoch"), logarithmic("norm of the gradient"), { shapes });
    });
    show(["horizons"], horizons, ({ x, k, lines, singular }) => {
      const dots = { mode: "lines+markers", marker: { size: 5 }, hovertemplate: "10^%{y:.2f}" };
      const dashes = { dash: "dash", width: 1, showlegend: false, hoverinfo: "skip" };
      const traces = inStages(lines, ({ y, theory }, name, colour) => [
        line(name, x, y, colour, dots), line(`${name}, from the spectrum`, x, theory, colour, dashes),
      ]);
      const title = `log10 σ1 / σ${k}${singular ? " (gaps: infinite)" : ""}`;
      draw("horizons", traces, axis("horizon t (steps)"), axis(title));
    });
  }

  const rule = (place, dash) => ({ type: "line", line: { color: ink("quiet"), dash, width: 1 }, ...place });

  function inStages(content, traces) {
    const shades = { start: ink("faint"), after_preflossing: detail().colour, end: ink("ink") };
    return Object.keys(STAGES).filter((stage) => content[stage]).flatMap((stage) => (
      traces(content[stage], STAGES[stage], shades[stage])
    ));
  }

  // First and last time of each block of flossing.
  function blocks({ training, flossing, flossed }) {
    const found = new Map();
    training.forEach((epochs, at) => {
      const time = epochs + flossing[at];
      if (flossed[at]) found.set(epochs, [found.get(epochs)?.[0] ?? time, time]);
    });
    return [...found.values()];
  }

  const moments = (training, flossing) => `after ${training} training and ${flossing} flossing epochs`;

  // ---- the weights through training --------------------------------------------------------------------------------

  function drawNetwork() {
    const { network } = detail();
    if (!find("player")) return;
    find("player").hidden = find("snapshots").hidden = typeof network === "string";
    show(["eigenvalues", "weights"], network, (content) => {
      const { epochs, of, size, units, real, imaginary, limit } = content;
      find("snapshots").textContent = of > epochs.length ? `Shown are ${epochs.length} of ${of} snapshots.` : "";
      const slider = find("step");
      slider.max = epochs.length - 1;
      const at = Number(slider.value);
      find("moment").textContent = moments(...epochs[at]);
      slider.setAttribute("aria-valuetext", moments(...epochs[at]));

      const reach = 1.08 * Math.max(1, ...real.map(largest), ...imaginary.map(largest));
      const points = {
        type: "scatter", mode: "markers", x: real[at], y: imaginary[at], marker: { color: detail().colour, size: 6 },
        text: real[at].map((value, i) => Math.hypot(value, imaginary[at][i]).toFixed(3)),
        hovertemplate: "%{x:.3f} %{y:+.3f} i<br>modulus %{text}<extra></extra>",
      };
      const pen = { color: ink("faint"), width: 1 };
      const circle = { type: "circle", x0: -1, x1: 1, y0: -1, y1: 1, layer: "below", line: pen };
      const range = { range: [-reach, reach], constrain: "domain" };
      const up = axis("imaginary part", { ...range, scaleanchor: "x" });
      draw("eigenvalues", [points], axis("real part", range), up, { shapes: [circle], hovermode: "closest" });
      const heat = {
        type: "heatmap", z: unpack(content, at), x0: 1, y0: 1, zmin: -limit, zmax: limit, colorscale: diverging(),
        hovertemplate: "J from %{x} to %{y}: %{z:.3f}<extra></extra>", colorbar: { thickness: 12, outlinewidth: 0 },
      };
      const which = size < units ? ` (${size} of ${units}, evenly chosen)` : "";
      const square = { constrain: "domain", showgrid: false };
      const from = axis(`from unit${which}`, { ...square, constraintoward: "right" });
      const to = axis("to unit", { ...square, autorange: "reversed", scaleanchor: "x" });
      draw("weights", [heat], from, to, { hovermode: "closest" });
    });
  }

  // The weights of one snapshot as rows: signed bytes times a scale.
  function unpack({ weights, scale, size }, at) {
    const bytes = Int8Array.from(atob(weights[at]), (letter) => letter.charCodeAt(0));
    const values = Array.from(bytes, (byte) => byte * scale);
    return Array.from({ length: size }, (_, row) => values.slice(row * size, (row + 1) * size));
  }

  let playing = null;

  function stop() {
    clearInterval(playing);
    playing = null;
    if (find("play")) find("play").textContent = "Play";
  }

  function rewind() {
    stop();
    if (find("step")) find("step").value = 0;
  }

  function play() {
    if (playing) return stop();
    const slider = find("step");
    if (slider.value === slider.max) slider.value = 0;
    find("play").textContent = "Pause";
    playing = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      drawNetwork();
      if (slider.value === slider.max) stop();
    }, 250);
  }

  // ---- when --------------------------------------------------------------------------------------------------------

  const ofOneRun = [drawExponents, drawFeedback, drawNetwork];
  const all = [drawFinal, drawCurves, ...ofOneRun];
  const redraw = () => all.forEach((each) => each());

  // One after another with a breath between, so that the first figures are there at once.
  function inTurn([first, ...others]) {
    first();
    if (others.length) setTimeout(inTurn, 0, others);
  }

  find("final-choice")?.addEventListener("change", drawFinal);
  find("curves-choice")?.addEventListener("change", drawCurves);
  find("run").addEventListener("change", () => { rewind(); ofOneRun.forEach((each) => each()); });
  find("step")?.addEventListener("input", () => { stop(); drawNetwork(); });
  find("play")?.addEventListener("click", play);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const hint = () => document.querySelectorAll(".table").forEach((table) =>
    table.classList.toggle("scrolls", table.scrollWidth > table.clientWidth));
  let width = innerWidth, soon;
  addEventListener("resize", () => {
    if (innerWidth === width) return;  // a phone's address bar came or went
    width = innerWidth;
    clearTimeout(soon);
    soon = setTimeout(() => { redraw(); hint(); }, 100);
  });
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => { document.documentElement.classList.toggle("printing", printing); redraw(); });
  }
  // First a run that has all figures, if there is one.
  find("run").value = Math.max(0, data.details.findIndex(({ squares }) => typeof squares !== "string"));
  inTurn(all);
  hint();
})();
