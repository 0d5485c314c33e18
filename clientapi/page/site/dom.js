// What the three tabs share to build the page. Text from rooms and from the server only ever becomes text nodes.

export const $ = (id) => document.getElementById(id);

// el makes an element. Properties that begin with "on" are listeners, "data-" and "aria-" attributes, others are set as they are.
export function el(tag, properties = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(properties)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (name.includes("-")) element.setAttribute(name, value);
		else element[name] = value;
	}
	element.append(...children.filter((child) => child !== null && child !== undefined));
	return element;
}

// replace shows other children, and keeps the keyboard's focus on the control with the same data-key.
export function replace(parent, ...children) {
	const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
	parent.replaceChildren(...children);
	if (key) [...parent.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key)?.focus();
}

// say tells the user something, for people who see the page and for those who hear it.
export function say(text, wrong = false) {
	const message = $("message");
	message.textContent = text;
	message.classList.toggle("wrong", wrong);
	message.hidden = false;
	clearTimeout(fading);
	if (!wrong) fading = setTimeout(() => { message.hidden = true; }, 8000);
}

let fading = 0;

// guarded runs what a click asks for. The button is disabled meanwhile, and an error is shown.
export async function guarded(button, work) {
	if (button) button.disabled = true;
	try {
		await work();
	} catch (error) {
		say(error.message, true);
	} finally {
		if (button) button.disabled = false;
	}
}

const units = [["day", 86400000], ["h", 3600000], ["min", 60000], ["s", 1000]];

// span writes a duration with its two largest units: 1 h 5 min.
export function span(ms) {
	if (ms < 1000) return ms < 1 ? `${+ms.toFixed(2)} ms` : `${Math.round(ms)} ms`;
	let left = Math.round(ms / 1000) * 1000;
	const parts = [];
	for (const [name, size] of units) {
		const n = Math.floor(left / size);
		if (n > 0) parts.push(`${n} ${name === "day" && n > 1 ? "days" : name}`);
		left -= n * size;
		if (parts.length === 2) break;
	}
	return parts.join(" ");
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const moment = (ts) => clock.format(new Date(ts));

export const plural = (n, one, many = one + "s") => `${n.toLocaleString()} ${n === 1 ? one : many}`;
