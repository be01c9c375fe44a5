// vLLM's metrics as numbers: the Prometheus text format, summed over engines, and what two samples say of the time between.
const GAUGES = { running: "vllm:num_requests_running", waiting: "vllm:num_requests_waiting" };
const COUNTERS = {
  prompt: "vllm:prompt_tokens_total", generated: "vllm:generation_tokens_total",
  hits: "vllm:prefix_cache_hits_total", queries: "vllm:prefix_cache_queries_total", preemptions: "vllm:num_preemptions_total",
};
const HISTOGRAMS = { first: "vllm:time_to_first_token_seconds", between: "vllm:inter_token_latency_seconds" };
const KV = "vllm:kv_cache_usage_perc";
const names = new Map([
  ...Object.entries({ ...GAUGES, ...COUNTERS }).map(([key, name]) => [name, { key }]),
  ...Object.entries(HISTOGRAMS).map(([key, name]) => [`${name}_bucket`, { key, bucket: true }]),
]);

export function parse(text) {
  const found = { buckets: { first: new Map(), between: new Map() } };
  const shares = [];
  for (const line of text.split("\n")) {
    if (!line.startsWith("vllm:")) continue;
    const end = line.search(/[{ ]/);
    const name = line.slice(0, end);
    const value = Number(line.slice(line.lastIndexOf(" ") + 1));
    if (!Number.isFinite(value)) continue;
    if (name === KV) { shares.push(value); continue; }
    const known = names.get(name);
    if (!known) continue;
    if (known.bucket) {
      const le = /[{,]le="([^"]*)"/.exec(line);
      if (!le) continue;
      const bound = le[1] === "+Inf" ? Infinity : Number(le[1]);
      const buckets = found.buckets[known.key];
      buckets.set(bound, (buckets.get(bound) || 0) + value);
    } else found[known.key] = (found[known.key] || 0) + value;
  }
  // Copies of the model have a cache each: the fullest one is where requests wait.
  if (shares.length) found.kv = Math.max(...shares);
  return found;
}

// A quantile, in seconds, of what came between two samples of a histogram; null where nothing came.
export function quantile(before, after, q) {
  const bounds = [...after.keys()].sort((a, b) => a - b);
  const counts = bounds.map((bound) => after.get(bound) - (before.get(bound) || 0));
  const total = counts.at(-1);
  if (!(total > 0)) return null;
  const rank = q * total;
  let low = 0;
  let below = 0;
  for (const [index, bound] of bounds.entries()) {
    if (counts[index] >= rank) {
      if (bound === Infinity) return low;
      const inside = counts[index] - below;
      return low + (bound - low) * (inside > 0 ? (rank - below) / inside : 1);
    }
    low = bound;
    below = counts[index];
  }
  return low;
}

export function rate(before, after, key, seconds) {
  if (before[key] == null || after[key] == null || after[key] < before[key] || seconds <= 0) return null; // absent, or restarted
  return (after[key] - before[key]) / seconds;
}
