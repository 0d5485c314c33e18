// Charts without a library: tables with bars, which are read aloud as tables, and one line.

import { el, replace, span } from "./dom.js";

// bars draws rows of {label, value, action}. Rows with actions are about IDs, which are long.
export function bars(figure, caption, rows, none = "None yet.") {
	const ids = rows.some((row) => row.action);
	const most = Math.max(1, ...rows.map((row) => row.value));
	const body = rows.map(({ label, value, action }) => {
		const bar = el("span", { className: "bar" });
		bar.style.width = `${100 * value / most}%`;
		return el("tr", {},
			el("th", { scope: "row" }, label),
			el("td", {}, value > 0 ? bar : ""),
			el("td", { className: "number" }, value.toLocaleString()),
			action ? el("td", { className: "act" }, action) : null);
	});
	replace(figure, el("figcaption", {}, caption),
		rows.length > 0 ? el("table", { className: ids ? "bars ids" : "bars" }, el("tbody", {}, ...body)) : el("p", { className: "note" }, none));
}

// histogram draws the ranges that hold something, and those between.
export function histogram(figure, caption, { bounds_ms: bounds, counts }) {
	const first = counts.findIndex((n) => n > 0);
	const last = counts.findLastIndex((n) => n > 0);
	const rows = first < 0 ? [] : counts.slice(first, last + 1).map((value, i) => ({ label: rangeName(bounds, first + i), value }));
	bars(figure, caption, rows);
	const total = counts.reduce((sum, n) => sum + n, 0);
	if (total > 0) figure.append(el("p", { className: "note" }, `Half ${within(bounds, counts, total / 2)}, 99 % ${within(bounds, counts, 0.99 * total)}.`));
}

function rangeName(bounds, i) {
	return i < bounds.length ? `up to ${span(bounds[i])}` : `over ${span(bounds.at(-1))}`;
}

function within(bounds, counts, share) {
	let seen = 0;
	const i = counts.findIndex((n) => (seen += n) >= share);
	return i < bounds.length ? `within ${span(bounds[i])}` : `over ${span(bounds.at(-1))}`;
}

// line draws values over time, the newest at the right.
export function line(figure, caption, values, places) {
	const most = Math.max(1, ...values);
	const points = values.map((value, i) => `${places - values.length + i},${100 - 95 * value / most}`).join(" ");
	const name = "http://www.w3.org/2000/svg";
	const picture = document.createElementNS(name, "svg");
	const graph = document.createElementNS(name, "polyline");
	picture.setAttribute("class", "line");
	picture.setAttribute("viewBox", `0 0 ${places - 1} 100`);
	picture.setAttribute("preserveAspectRatio", "none");
	picture.setAttribute("role", "img");
	picture.setAttribute("aria-label", caption);
	graph.setAttribute("points", points);
	picture.append(graph);
	replace(figure, el("figcaption", {}, caption), picture);
}
