// Watch it: what the server does, over the last minutes, beside what the plan says it can.
import { parse, quantile, rate } from "./metrics.js";

const at = (id) => document.getElementById(id);
const EVERY_MS = 2000;
const KEPT = 300; // points: ten minutes; a ring, so that hours of watching take no more than that
const SPAN = 5; // samples that a quantile looks back over

const CHARTS = [
  { id: "requests", title: "Requests", series: [["running", "one", "running"], ["waiting", "two", "waiting"]], unit: "", plan: "requests" },
  { id: "speed", title: "Tokens per second", series: [["out", "one", "out"], ["in", "two", "in"]], unit: "" },
  { id: "kv", title: "KV cache in use", series: [["kv", "one", "used"]], unit: "%", top: 100 },
  { id: "first", title: "First token", series: [["first50", "one", "median"], ["first95", "two", "95th"]], unit: " ms" },
  { id: "between", title: "Between two tokens", series: [["between50", "one", "median"], ["between95", "two", "95th"]], unit: " ms" },
  { id: "prefix", title: "Prefix cache hits", series: [["hits", "one", "hits"]], unit: "%", top: 100 },
];

export class Watch {
  constructor(about, call, state) {
    this.about = about;
    this.call = call;
    this.state = state;
    this.samples = []; // the last few raw ones
    this.points = []; // what is drawn
    this.failures = 0;
    this.build();
    window.addEventListener("panel", () => this.draw());
    window.addEventListener("resize", () => this.draw());
    this.tick();
  }

  async tick() {
    try {
      const answer = await this.call("metrics");
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      this.take(parse(await answer.text()), performance.now() / 1000);
      this.failures = 0;
    } catch {
      if (++this.failures > 1) this.state("not reachable", "bad");
    }
    setTimeout(() => this.tick(), document.hidden ? EVERY_MS * 5 : EVERY_MS);
  }

  take(sample, time) {
    const before = this.samples.at(-1);
    if (before && sample.generated < before.sample.generated) this.samples = []; // another vLLM: begin anew
    const last = this.samples.at(-1);
    const old = this.samples[Math.max(0, this.samples.length - SPAN)];
    const point = { time, running: sample.running ?? null, waiting: sample.waiting ?? null, kv: sample.kv == null ? null : sample.kv * 100 };
    if (last) {
      point.out = rate(last.sample, sample, "generated", time - last.time);
      point.in = rate(last.sample, sample, "prompt", time - last.time);
      for (const key of ["first", "between"]) for (const q of [50, 95]) {
        const seconds = quantile(old.sample.buckets[key], sample.buckets[key], q / 100);
        point[`${key}${q}`] = seconds == null ? null : seconds * 1000;
      }
      const asked = sample.queries - old.sample.queries;
      point.hits = asked > 0 ? 100 * (sample.hits - old.sample.hits) / asked : null;
    }
    this.samples.push({ sample, time });
    if (this.samples.length > SPAN + 1) this.samples.shift();
    this.points.push(point);
    if (this.points.length > KEPT) this.points.shift();
    this.latest = sample;
    const busy = sample.running > 0 ? `${sample.running} running` : "idle";
    this.state(sample.waiting > 0 ? `${busy}, ${sample.waiting} waiting` : busy, "good");
    this.draw();
  }

  build() {
    for (const chart of CHARTS) {
      const box = document.createElement("figure");
      box.className = "chart";
      const title = document.createElement("h2");
      title.textContent = chart.title;
      const legend = document.createElement("span");
      for (const [, colour, label] of chart.series) {
        const key = document.createElement("i");
        key.className = `key ${colour}`;
        legend.append(key, label);
      }
      title.append(legend);
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      box.append(title, canvas);
      at("charts").append(box);
      chart.canvas = canvas;
    }
    const planned = (this.about.plan || []);
    const say = [["now", "requests now"], ["speed", "tokens/s out"], ["kv", "KV cache in use"], ["first", "first token, median"], ["preemptions", "preemptions"]];
    this.figures = {};
    for (const [id, label] of say) this.figures[id] = this.figure("–", label);
    for (const { value, label } of planned) this.figure(value, label);
  }

  figure(value, label) {
    const box = document.createElement("div");
    box.className = "figure";
    const number = document.createElement("b");
    number.textContent = value;
    const words = document.createElement("span");
    words.textContent = label;
    box.append(number, words);
    at("figures").append(box);
    return number;
  }

  draw() {
    const point = this.points.at(-1);
    if (!point || at("watch").hidden) return;
    const show = (id, value, unit = "") => { this.figures[id].textContent = value == null ? "–" : `${brief(value)}${unit}`; };
    show("now", point.running);
    show("speed", point.out);
    show("kv", point.kv, "%");
    show("first", [...this.points].reverse().find((p) => p.first50 != null)?.first50, " ms");
    show("preemptions", this.latest.preemptions);
    const span = Math.max(60, point.time - this.points[0].time);
    at("span").textContent = `${span < 90 ? "The last minute" : `The last ${Math.round(span / 60)} minutes`}, a point every ${EVERY_MS / 1000} s; at most ten minutes are kept.`;
    for (const chart of CHARTS) draw(chart, this.points, span, this.about);
  }
}

function draw(chart, points, span, about) {
  const canvas = chart.canvas;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale)) { canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale); }
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const plan = chart.plan ? about.limits?.[chart.plan] : null;
  const values = points.flatMap((point) => chart.series.map(([key]) => point[key])).filter((value) => value != null);
  const most = Math.max(chart.top || 0, 1, ...values, ...(plan && plan <= 4 * Math.max(1, ...values) ? [plan] : []));
  const top = chart.top || nice(most);
  const left = 46;
  const bottom = height - 6;
  const x = (time) => left + (width - left - 4) * (1 - (points.at(-1).time - time) / span);
  const y = (value) => bottom - (bottom - 10) * Math.min(value / top, 1);
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const share of [0, 0.5, 1]) {
    pen.strokeStyle = colour("line");
    pen.beginPath();
    pen.moveTo(left, y(top * share));
    pen.lineTo(width - 4, y(top * share));
    pen.stroke();
    pen.fillStyle = colour("soft");
    pen.fillText(`${brief(top * share)}${chart.unit.trim() === "%" ? "%" : ""}`, left - 6, y(top * share));
  }
  if (plan && plan <= top) {
    pen.setLineDash([5, 4]);
    pen.strokeStyle = colour("plan");
    pen.beginPath();
    pen.moveTo(left, y(plan));
    pen.lineTo(width - 4, y(plan));
    pen.stroke();
    pen.setLineDash([]);
  }
  const said = [];
  for (const [key, ink, label] of chart.series) {
    pen.strokeStyle = colour(ink);
    pen.fillStyle = colour(ink);
    pen.lineWidth = 1.8;
    pen.beginPath();
    let down = false;
    for (const point of points) {
      if (point[key] == null) { down = false; continue; }
      if (down) pen.lineTo(x(point.time), y(point[key]));
      else { pen.moveTo(x(point.time), y(point[key])); pen.fillRect(x(point.time) - 1, y(point[key]) - 1, 2, 2); }
      down = true;
    }
    pen.stroke();
    const now = points.at(-1)[key];
    said.push(`${label} ${now == null ? "unknown" : brief(now) + chart.unit}`);
  }
  canvas.setAttribute("aria-label", `${chart.title}: ${said.join(", ")}`);
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function brief(value) {
  if (value >= 10000) return `${(value / 1000).toFixed(0)}k`;
  if (value >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2).replace(/\.?0+$/, "") || "0";
}
