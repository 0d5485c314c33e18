// Who is signed in, and which tab is shown.

import { $, guarded, say } from "./dom.js";
import { session, signIn, signOut, useToken } from "./api.js";
import * as scheduled from "./scheduled.js";
import * as server from "./server.js";
import * as tryIt from "./try.js";

const tabs = { scheduled, server, try: tryIt };
const names = Object.keys(tabs);
const reasons = {
	scheduled: "to schedule messages, and to see what you have scheduled.",
	server: "as an administrator, to see what waits on this server and how well it keeps time.",
	try: "to see futures at work. A test account will do.",
};
let shown = null; // the tab whose work goes on

function wanted() {
	const name = location.hash.slice(1);
	return names.includes(name) ? name : names[0];
}

function show() {
	const name = wanted();
	if (shown) tabs[shown].hide();
	shown = session ? name : null;
	for (const each of names) {
		const selected = each === name;
		$(`tab-${each}`).setAttribute("aria-selected", selected);
		$(`tab-${each}`).tabIndex = selected ? 0 : -1;
		$(each).hidden = !selected || !session;
	}
	$("sign-in").hidden = Boolean(session);
	$("sign-in-why").textContent = `Sign in with your account on this server ${reasons[name]}`;
	$("who").hidden = !session;
	$("user").textContent = session?.user ?? "";
	$("sign-out").textContent = session?.own === false ? "Forget the token" : "Sign out";
	if (shown) guarded(null, tabs[shown].show);
}

for (const name of names) {
	$(`tab-${name}`).addEventListener("click", () => {
		say("");
		location.hash = name;
	});
}

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
	const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
	if (!step) return;
	const next = names[(names.indexOf(wanted()) + step + names.length) % names.length];
	location.hash = next;
	$(`tab-${next}`).focus();
});

function onSubmit(id, work) {
	$(id).addEventListener("submit", (event) => {
		event.preventDefault();
		const form = event.target;
		guarded(form.querySelector("button"), async () => {
			await work(Object.fromEntries(new FormData(form)));
			form.reset();
			say("");
			show();
		});
	});
}

onSubmit("password-form", ({ user, password }) => signIn(user, password));
onSubmit("token-form", ({ token }) => useToken(token.trim()));

$("sign-out").addEventListener("click", (event) => guarded(event.target, async () => {
	const ended = signOut();
	forget();
	await ended;
	say("You are signed out.");
}));

// forget leaves nothing of a user behind for the next one.
function forget() {
	if (shown) tabs[shown].hide();
	shown = null;
	for (const name of names) tabs[name].forget();
	show();
}

addEventListener("signed-out", () => {
	forget();
	say("The session has ended. Sign in again.", true);
});
addEventListener("hashchange", show);

$("where").textContent = `on ${location.host}`;
show();
