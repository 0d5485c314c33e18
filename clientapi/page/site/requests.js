// The list of requests: each as a line for curl, with its answer. Tokens are shown by the names of shell variables.

import { $, el, guarded } from "./dom.js";

const names = { send_token: "$SEND", cancel_token: "$CANCEL", refresh_token: "$REFRESH" };

let lastTitle = "", lastEntry = null, repeats = 0;

export function clear() {
	$("requests").replaceChildren();
	lastTitle = "";
}

// setVariables shows what the lines below need: name: [value, remark]. A remark that says the same is left out.
export function setVariables(variables) {
	$("variables").textContent = Object.entries(variables)
		.map(([name, [value, remark = value]]) => `${name}=${quoted(value)}${remark === value ? "" : `   # ${remark}`}`).join("\n");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// log notes a request and returns its answer. An open request needs no access token.
export async function log(title, method, path, body, answer, { open = false } = {}) {
	const parts = ["curl"];
	if (method !== "GET") parts.push("-X", method);
	if (!open) parts.push('-H "Authorization: Bearer $T"');
	parts.push(`"$H${path}"`);
	if (body !== undefined) parts.push("-d", quoted(JSON.stringify(body)));
	try {
		const value = await answer;
		recall(title, parts.join(" "), value);
		return value;
	} catch (error) {
		lastTitle = ""; // not one of those that are counted
		if (error.name !== "AbortError") recall(title, parts.join(" "), { errcode: error.errcode, error: error.message });
		throw error;
	}
}

// recall adds an entry to the list. Heartbeats, which repeat, are counted instead.
export function recall(title, line, answer) {
	if (title === lastTitle) {
		repeats++;
		lastEntry.count.textContent = `${repeats} times`;
		return;
	}
	lastTitle = title;
	repeats = 1;
	const count = el("span", { className: "note" });
	const copy = el("button", { className: "plain", onclick: () => guarded(copy, () => navigator.clipboard.writeText(line)) }, "Copy");
	copy.hidden = !navigator.clipboard; // it is there only where the page was loaded securely
	const entry = el("li", {}, el("h3", {}, el("span", {}, title, " ", count), copy), el("pre", {}, line), el("pre", {}, JSON.stringify(hidden(answer))));
	lastEntry = { count };
	$("requests").append(entry);
	entry.scrollIntoView({ block: "nearest" });
}

const hidden = (answer) => Object.fromEntries(Object.entries(answer).map(([key, value]) => [key, names[key] ?? value]));
