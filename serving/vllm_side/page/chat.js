// Try it: a streaming chat. The conversation lives in this tab (sessionStorage) and in what is sent to the server.
const at = (id) => document.getElementById(id);
const KEPT = "conversation";
const KEPT_LIMIT = 2_000_000; // characters; images are left out of what is kept above it

export class Chat {
  constructor(about, call) {
    this.about = about;
    this.call = call;
    this.images = [];
    this.running = null;
    this.turns = this.kept();
    for (const turn of this.turns) this.show(turn);
    at("ask").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    at("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.send(); }
    });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.stop(); });
    at("stop").addEventListener("click", () => this.stop());
    at("reset").addEventListener("click", () => this.reset());
    if (about.images) this.takeImages();
  }

  kept() {
    try {
      const turns = JSON.parse(sessionStorage.getItem(KEPT) || "[]");
      return Array.isArray(turns) ? turns.filter((turn) => turn && typeof turn.text === "string") : [];
    } catch { return []; }
  }

  keep() {
    let text = JSON.stringify(this.turns);
    if (text.length > KEPT_LIMIT) text = JSON.stringify(this.turns.map(({ images, ...turn }) => turn));
    try { sessionStorage.setItem(KEPT, text.length > KEPT_LIMIT ? "[]" : text); } catch { /* full: this tab remembers nothing */ }
  }

  reset() {
    this.stop();
    this.turns = [];
    this.keep();
    at("turns").replaceChildren();
    at("question").focus();
  }

  stop() { if (this.running) this.running.abort(); }

  messages() {
    const system = at("system").value.trim();
    const said = this.turns.filter((turn) => turn.role !== "error" && (turn.text || turn.images));
    return [
      ...(system ? [{ role: "system", content: system }] : []),
      ...said.map(({ role, text, images }) => ({
        role,
        content: images && images.length
          ? [...images.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }]
          : text,
      })),
    ];
  }

  async send() {
    const text = at("question").value.trim();
    if (this.running || (!text && !this.images.length)) return;
    this.say({ role: "user", text, images: this.images });
    at("question").value = "";
    this.images = [];
    at("images").replaceChildren();
    const abort = new AbortController();
    this.running = abort;
    at("stop").disabled = false;
    at("send").disabled = true;
    const turn = { role: "assistant", text: "", facts: {} };
    const box = this.show(turn);
    box.classList.add("waiting");
    const begin = performance.now();
    let first = null;
    let painted = false;
    const paint = () => { painted = false; this.paint(box, turn); this.scroll(); };
    try {
      const body = { model: this.about.model, messages: this.messages(), stream: true, stream_options: { include_usage: true } };
      const temperature = at("temperature").valueAsNumber;
      const length = at("max-tokens").valueAsNumber;
      if (temperature >= 0) body.temperature = temperature;
      if (length >= 1) body.max_tokens = Math.floor(length);
      const answer = await this.call("v1/chat/completions", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: abort.signal,
      });
      if (!answer.ok) throw new Error(await problem(answer));
      for await (const data of events(answer.body)) {
        if (data === "[DONE]") { turn.facts.whole = true; break; }
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message || JSON.stringify(chunk.error));
        const choice = (chunk.choices || [])[0];
        const piece = choice && choice.delta && (choice.delta.content || choice.delta.reasoning_content || choice.delta.reasoning);
        if (piece) {
          first ??= performance.now();
          turn.text += piece;
          if (!painted) { painted = true; requestAnimationFrame(paint); }
        }
        if (choice && choice.finish_reason) turn.facts.finish = String(choice.finish_reason);
        if (chunk.usage) turn.facts.tokens = chunk.usage.completion_tokens;
      }
      if (!turn.facts.finish && !turn.facts.whole) throw new Error("The answer broke off: the server closed the stream before its end.");
    } catch (error) {
      if (abort.signal.aborted) turn.facts.stopped = true;
      else turn.facts.error = String(error.message || error);
    } finally {
      this.running = null;
      at("stop").disabled = true;
      at("send").disabled = false;
    }
    const end = performance.now();
    if (first !== null) {
      turn.facts.first = Math.round(first - begin);
      if (turn.facts.tokens > 1) turn.facts.speed = (turn.facts.tokens - 1) / ((end - first) / 1000);
    }
    box.classList.remove("waiting");
    this.paint(box, turn);
    this.scroll();
    this.turns.push(turn);
    this.keep();
  }

  say(turn) {
    this.turns.push(turn);
    this.keep();
    this.show(turn);
    this.scroll(true);
  }

  show(turn) {
    const box = document.createElement("article");
    box.className = `turn ${turn.role === "user" ? "user" : "assistant"}`;
    box.setAttribute("aria-label", turn.role === "user" ? "You" : "The model");
    at("turns").append(box);
    this.paint(box, turn);
    return box;
  }

  paint(box, turn) {
    const nodes = (turn.images || []).filter((url) => url.startsWith("data:image/")).map((url) => {
      const image = document.createElement("img");
      image.src = url;
      image.alt = "an image that you sent";
      return image;
    });
    nodes.push(...blocks(turn.text));
    const facts = turn.facts || {};
    const line = document.createElement("p");
    line.className = "facts";
    const words = [];
    if (facts.tokens) words.push(`${facts.tokens} tokens`);
    if (facts.speed) words.push(`${facts.speed.toFixed(1)} tokens/s`);
    if (facts.first != null) words.push(`first token after ${facts.first} ms`);
    if (facts.stopped) words.push("stopped");
    line.textContent = words.join(" · ");
    if (facts.finish === "length") {
      const cut = document.createElement("span");
      cut.className = "cut";
      cut.textContent = `${words.length ? " · " : ""}cut at max_tokens`;
      line.append(cut);
    }
    if (line.textContent) nodes.push(line);
    if (facts.error) {
      const error = document.createElement("p");
      error.className = "cut";
      error.setAttribute("role", "alert");
      error.textContent = facts.error;
      nodes.push(error);
    }
    box.replaceChildren(...nodes);
  }

  scroll(always = false) {
    const near = window.innerHeight + window.scrollY > document.body.scrollHeight - 160;
    if (always || near) window.scrollTo({ top: document.body.scrollHeight });
  }

  takeImages() {
    const form = at("ask");
    const add = (files) => {
      for (const file of files) {
        if (!file.type.startsWith("image/")) continue;
        const reader = new FileReader();
        reader.onload = () => {
          this.images.push(reader.result);
          const image = document.createElement("img");
          image.src = reader.result;
          image.alt = file.name;
          at("images").append(image);
        };
        reader.readAsDataURL(file);
      }
    };
    // Anywhere: a file that is let go beside the form would take the browser away from the conversation.
    document.addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("drop"); });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) form.classList.remove("drop"); });
    document.addEventListener("drop", (event) => { event.preventDefault(); form.classList.remove("drop"); add(event.dataTransfer.files); });
    at("file").addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
    at("question").addEventListener("paste", (event) => add(event.clipboardData.files));
  }
}

// The text between fences becomes a block that can be copied; all of it stays text.
export function blocks(text) {
  return text.split(/^```/m).map((part, index) => {
    if (index % 2 === 0) {
      const words = part.replace(/^\n+|\n+$/g, "");
      if (!words) return null;
      const paragraph = document.createElement("p");
      paragraph.textContent = words;
      return paragraph;
    }
    const box = document.createElement("div");
    box.className = "code";
    const pre = document.createElement("pre");
    const code = document.createElement("code");
    code.textContent = part.replace(/^[^\n]*\n?/, "").replace(/\n$/, "");
    pre.append(code);
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(code.textContent); copy.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(code); copy.textContent = "Selected"; }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    box.append(pre, copy);
    return box;
  }).filter(Boolean);
}

// The data of each server-sent event of a body, however the network has cut it.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? "\n\n" : value;
      const lines = rest.split(/\r\n|\n|\r(?=.)/s);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) { const whole = data.join("\n"); data = []; if (whole.trim()) yield whole; }
      }
      if (done) return;
    }
  } finally { reader.cancel().catch(() => {}); }
}

async function problem(answer) {
  const text = (await answer.text()).slice(0, 2000);
  try {
    const body = JSON.parse(text);
    const said = body.error?.message || body.message || body.detail;
    if (said) return `${answer.status}: ${typeof said === "string" ? said : JSON.stringify(said)}`;
  } catch { /* not JSON: as it is */ }
  return `${answer.status}: ${text.replace(/<[^>]*>/g, " ").trim() || answer.statusText}`;
}
