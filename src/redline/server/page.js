// The built-in page: a chat, and the engine beside it. Asks /v1/status once a second and /v1/chat/completions on demand.
// Everything that comes from the server is put in as text, never as markup.

const EVERY_MS = 1000;
const HISTORY = 120;
const SHOWN_RECEIPTS = 20;
const SVG = "http://www.w3.org/2000/svg";

const by = (id) => document.getElementById(id);
const history = [];
const messages = [];
let before = null;
let points = {};
let running = null;

function headers() {
  const key = sessionStorage.getItem("key");
  return key ? { authorization: `Bearer ${key}` } : {};
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}


async function watch() {
  try {
    const answer = await fetch("/v1/status", { headers: headers() });
    by("key-form").hidden = answer.status !== 401;
    if (answer.ok) show(await answer.json(), performance.now());
    else by("state").textContent = answer.status === 401 ? "needs an API key" : `status ${answer.status}`;
  } catch {
    by("state").textContent = "the server does not answer";
  }
  setTimeout(watch, EVERY_MS);
}

function show(now, at) {
  by("state").textContent = now.state === "loading" ? `loading: ${now.stage}, ${Math.round(now.percent)} %` : now.state;
  if (now.model) by("model").textContent = `${now.model.id} · ${now.model.dtype} on ${now.model.device} · context ${now.model.max_model_len}`;
  by("running").textContent = now.running;
  by("waiting").textContent = now.waiting;
  by("pages").textContent = `${now.pages_used} of ${now.pages_total}`;
  by("pages-meter").value = now.pages_total ? now.pages_used / now.pages_total : 0;
  by("hits").textContent = now.prefix_queries ? Math.round((100 * now.prefix_hits) / now.prefix_queries) : 0;
  if (before) {
    const rate = Math.max(0, (now.generation_tokens - before.status.generation_tokens) / ((at - before.at) / 1000));
    by("rate").textContent = rate >= 10 ? Math.round(rate) : rate.toFixed(1);
    history.push(rate);
    if (history.length > HISTORY) history.shift();
    drawHistory();
  }
  for (const [name, phase] of Object.entries(now.phases)) {
    const old = before?.status.phases[name] ?? { seconds: 0, bytes: 0, flops: 0 };
    const seconds = phase.seconds - old.seconds;
    if (seconds > 0) points[name] = { flops: (phase.flops - old.flops) / seconds, bytes: (phase.bytes - old.bytes) / seconds };
  }
  drawRoofline(now);
  before = { status: now, at };
}

function drawHistory() {
  const most = Math.max(...history, 1);
  const line = history.map((rate, i) => `${(300 * i) / (HISTORY - 1)},${58 - (54 * rate) / most}`).join(" ");
  by("history").replaceChildren(
    drawn("polyline", { points: line, class: "history" }),
    drawn("text", { x: 2, y: 10 }, `${Math.round(most)} tok/s`),
  );
}

function drawRoofline(now) {
  const roof = now.ceilings;
  const tell = Object.entries(now.phases)
    .filter(([, phase]) => phase.ratio !== null)
    .map(([name, phase]) => `${name}: ${Math.round(100 * phase.ratio)} % of the limit`);
  if (!roof) {
    by("ratio").textContent = "This machine was not measured yet: run redline doctor.";
    return;
  }
  if (tell.length) by("ratio").textContent = tell.join(", ");
  const [left, right, top, bottom] = [34, 332, 8, 205];
  const ridge = roof.matmul_flops_per_s / roof.read_bytes_per_s;
  const low = -1, high = Math.max(3, Math.ceil(Math.log10(ridge)) + 1);
  const peak = Math.log10(roof.matmul_flops_per_s) + 0.3, floor = peak - (high - low);
  const x = (intensity) => left + ((right - left) * (Math.log10(intensity) - low)) / (high - low);
  const y = (flops) => bottom - ((bottom - top) * (Math.log10(flops) - floor)) / (peak - floor);
  const attainable = (intensity) => Math.min(roof.read_bytes_per_s * intensity, roof.matmul_flops_per_s);
  const from = Math.max(10 ** low, 10 ** floor / roof.read_bytes_per_s);
  const parts = [
    drawn("path", { d: `M${left},${top}V${bottom}H${right}`, class: "axis" }),
    drawn("path", { d: `M${x(from)},${y(attainable(from))}L${x(ridge)},${y(attainable(ridge))}H${right}`, class: "roof" }),
    drawn("text", { x: right - 70, y: bottom + 20 }, "FLOP per byte"),
    drawn("text", { x: 2, y: top + 2 }, "FLOP/s"),
    drawn("text", { x: x(ridge) + 4, y: y(attainable(ridge)) + 12 }, `${scaled(roof.matmul_flops_per_s)}FLOP/s`),
    drawn("text", { x: left + 6, y: top + 14 }, `${scaled(roof.read_bytes_per_s)}B/s`),
  ];
  for (let power = low; power <= high; power++) parts.push(drawn("text", { x: x(10 ** power) - 4, y: bottom + 10 }, `1e${power}`));
  for (const [name, point] of Object.entries(points)) {
    if (!(point.flops > 0 && point.bytes > 0)) continue;
    const at = { cx: x(point.flops / point.bytes), cy: Math.min(bottom, y(point.flops)) };
    parts.push(drawn("circle", { ...at, r: 4, class: name }), drawn("text", { x: at.cx + 6, y: at.cy + 3 }, name));
  }
  by("roofline").replaceChildren(...parts);
}

function scaled(value) {
  const units = ["", "k", "M", "G", "T", "P"];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(value) / 3)));
  return `${(value / 1000 ** power).toPrecision(3)} ${units[power]}`;
}


async function ask(event) {
  event.preventDefault();
  const text = by("prompt").value.trim();
  if (!text || running) return;
  by("prompt").value = "";
  messages.push({ role: "user", content: text });
  by("messages").append(element("li", text, "user"));
  const shown = element("li", "", "assistant");
  by("messages").append(shown);
  running = new AbortController();
  by("send").disabled = true;
  by("stop").disabled = false;
  const answer = { text: "", reasoning: "", calls: [] };
  try {
    await stream(answer, () => showAnswer(shown, answer), running.signal);
  } catch (error) {
    if (error.name !== "AbortError") by("messages").append(element("li", error.message, "failure"));
  }
  // A conversation must not end with two turns of the user: a turn that got no words is taken back.
  if (answer.text) messages.push({ role: "assistant", content: answer.text });
  else messages.pop();
  running = null;
  by("send").disabled = false;
  by("stop").disabled = true;
  by("prompt").focus();
}

async function stream(answer, changed, signal) {
  const body = { messages, stream: true, redline: true, max_tokens: Number(by("max-tokens").value) || undefined };
  if (by("temperature").value !== "") body.temperature = Number(by("temperature").value);
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...headers() },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: {")) take(JSON.parse(event.slice(6)), answer);
    changed();
  }
}

function take(event, answer) {
  if (event.error) throw new Error(event.error.message);
  const delta = event.choices?.[0]?.delta;
  if (delta?.content) answer.text += delta.content;
  if (delta?.reasoning_content) answer.reasoning += delta.reasoning_content;
  for (const call of delta?.tool_calls ?? []) {
    answer.calls[call.index] ??= "";
    answer.calls[call.index] += (call.function.name ? `${call.function.name} ` : "") + (call.function.arguments ?? "");
  }
  if (event.redline) showReceipt(event.redline);
}

function showAnswer(shown, answer) {
  const list = by("messages");
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  const parts = [];
  if (answer.reasoning) {
    const details = element("details");
    details.open = shown.querySelector("details")?.open ?? false;
    details.append(element("summary", "reasoning"), element("span", answer.reasoning));
    parts.push(details);
  }
  parts.push(element("span", answer.text), ...answer.calls.map((call) => element("code", call)));
  shown.replaceChildren(...parts);
  if (follows) list.scrollTop = list.scrollHeight;
}

function showReceipt(receipt) {
  const { decode, prefill } = receipt;
  const line = [
    decode.tokens_per_s ? `${decode.tokens_per_s.toFixed(1)} tok/s` : "no decode steps",
    decode.ratio ? `${Math.round(100 * decode.ratio)} % of the limit` : receipt.reason,
    `prompt ${prefill.tokens} tokens${prefill.cached_tokens ? `, ${prefill.cached_tokens} cached` : ""}`,
    receipt.time_to_first_token_s === null ? null : `first token after ${receipt.time_to_first_token_s.toFixed(2)} s`,
  ];
  const item = element("li", line.filter(Boolean).join(" · "));
  item.append(element("br"), element("small", receipt.advice));
  by("receipts").prepend(item);
  while (by("receipts").children.length > SHOWN_RECEIPTS) by("receipts").lastChild.remove();
}

by("ask").addEventListener("submit", ask);
by("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) by("ask").requestSubmit();
  if (event.key === "Enter" && !event.shiftKey) event.preventDefault();
});
by("stop").addEventListener("click", () => running?.abort());
by("clear").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  by("messages").replaceChildren();
});
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", by("key").value);
  by("key").value = "";
});
watch();
