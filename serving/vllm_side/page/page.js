// The page's frame: who serves, the key, the two panels. Nothing here makes HTML of a text: all of it is textContent.
import { Chat } from "./chat.js";
import { Watch } from "./watch.js";

const at = (id) => document.getElementById(id);
const KEY = "key"; // in sessionStorage: this tab alone, gone with it

export async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...(options.headers || {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  return fetch(path, { ...options, headers, cache: "no-store", redirect: "error", credentials: "omit", referrerPolicy: "no-referrer" });
}

let started = false;

async function open() {
  let about;
  try {
    const answer = await call("ui/about.json");
    if (answer.status === 401) {
      at("key-error").textContent = sessionStorage.getItem(KEY) ? "That key was refused." : "";
      sessionStorage.removeItem(KEY);
      at("key-form").hidden = false;
      at("key").focus();
      state("needs a key");
      return;
    }
    about = await answer.json();
  } catch {
    state("not reachable", "bad");
    setTimeout(open, 2000);
    return;
  }
  at("key-form").hidden = true;
  at("model").textContent = about.model || "vLLM";
  document.title = `${about.model || "vLLM"} · gemma-vllm-kit`;
  at("summary").textContent = about.summary || "";
  at("banner").hidden = !about.banner;
  at("banner").textContent = about.banner || "";
  at("pick").hidden = !about.images;
  if (!started) {
    started = true;
    new Chat(about, call);
    new Watch(about, call, state);
  }
}

function state(text, kind = "") {
  if (at("state").textContent !== text) at("state").textContent = text;
  at("state").className = kind;
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value.trim());
  at("key").value = "";
  open();
});

const tabs = [at("tab-try"), at("tab-watch")];
function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    at(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  window.dispatchEvent(new Event("panel"));
}
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const other = tabs[(tabs.indexOf(tab) + 1) % 2];
      choose(other);
      other.focus();
    }
  });
}
if (location.hash === "#watch") choose(at("tab-watch"));
open();
