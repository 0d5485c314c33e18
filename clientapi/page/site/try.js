// The tab of developers: a call whose participant falls out, request by request.

import { $, guarded, say } from "./dom.js";
import { at, call, client, joinedRooms, session } from "./api.js";
import { clear, log, recall, setVariables } from "./requests.js";

const type = "org.example.call";
const perTimeout = 3; // heartbeats

let current = null; // the visit to a call: {room, tokens, timeout, deadline, lastSign, beating, abort, outcome}
let drawing = 0;
let visible = false;

export async function show() {
	visible = true;
	const rooms = await joinedRooms();
	if (!visible) return;
	const select = $("join-form").room;
	select.replaceChildren(new Option("a new room for this", ""), ...rooms.map((room) => new Option(room.name, room.id)));
	describe();
}

export function hide() {
	visible = false;
	if (current) end();
	clearInterval(drawing);
	$("call").hidden = true;
	$("join-form").hidden = false;
}

export function forget() {
	current = null;
	clear();
	$("variables").textContent = "";
	$("join-form").room.replaceChildren();
}

function describe(room) {
	setVariables({
		H: [location.origin + "/_matrix/client/v3"],
		T: ["…", "your access token"],
		ME: [encodeURIComponent(session.user), session.user],
		R: room ? [encodeURIComponent(room), room] : ["…", "a room"],
	});
}

const member = () => `state/${type}/${at(session.user)}`;

$("join-form").addEventListener("submit", (event) => {
	event.preventDefault();
	const form = event.target;
	guarded(form.querySelector("button"), async () => {
		say("");
		clear();
		await join(form.room.value, form.seconds.valueAsNumber * 1000);
	});
});

async function join(room, timeout) {
	if (!room) {
		const body = { name: "Trying futures", preset: "private_chat" };
		room = (await log("A room for it", "POST", "/createRoom", body, call("POST", client("createRoom"), { body }))).room_id;
	}
	describe(room);
	const since = (await call("GET", client("sync"), { query: { filter: filter(room), timeout: 0 } })).next_batch;
	const here = { in: "call" };
	await log("I am in the call", "PUT", `/rooms/$R/state/${type}/$ME`, here, call("PUT", client(`rooms/${at(room)}/${member()}`), { body: here }));
	const path = client(`rooms/${at(room)}/state_future/${type}/${at(session.user)}`);
	const tokens = await log(`Unless I say otherwise, I have left in ${timeout / 1000} s`, "PUT", `/rooms/$R/state_future/${type}/$ME?future_timeout=${timeout}`, {},
		call("PUT", path, { query: { future_timeout: timeout }, body: {} }));
	if (!visible) return; // the leave comes by itself
	current = { room, tokens, timeout, deadline: Date.now() + timeout, lastSign: Date.now(), beating: true, abort: new AbortController(), outcome: "" };
	watch(current, since);
	beatOn(current);
	clearInterval(drawing);
	drawing = setInterval(draw, 100);
	$("join-form").hidden = true;
	$("call").hidden = false;
	draw();
	$("stop-beating").focus();
}

// use does what a token of the future stands for. There is no access token in the request.
function use(title, name, token) {
	return log(title, "POST", `/futures/$${name}`, undefined, call("POST", client(`futures/${at(token)}`), { token: "", signal: current.abort.signal }), { open: true });
}

async function beat(visit) {
	const began = Date.now();
	await use("I am still here", "REFRESH", visit.tokens.refresh_token);
	visit.lastSign = began;
	visit.deadline = Date.now() + visit.timeout;
}

function beatOn(visit) {
	visit.timer = setTimeout(async () => {
		if (!visit.beating) return;
		try {
			await beat(visit);
		} catch (error) {
			if (visit.abort.signal.aborted || visit.outcome) return;
			say(error.message, true);
			if (error.status === 410) visit.beating = false;
		}
		if (visit.beating && !visit.outcome) beatOn(visit);
	}, visit.timeout / perTimeout);
}

// watch waits for the leave, as any other client in the room would see it.
async function watch(visit, since) {
	try {
		while (!visit.outcome) {
			const answer = await syncOnce(visit, since);
			since = answer.next_batch;
			const room = answer.rooms?.join?.[visit.room];
			const events = [...(room?.state?.events ?? []), ...(room?.timeline?.events ?? [])];
			const leave = events.find((e) => e.type === type && e.state_key === session?.user && Object.keys(e.content).length === 0);
			if (leave) left(visit, leave);
		}
	} catch (error) {
		if (!visit.abort.signal.aborted) say(error.message, true);
	}
}

function syncOnce(visit, since) {
	return call("GET", client("sync"), { query: { filter: filter(visit.room), since, timeout: 30000 }, signal: visit.abort.signal });
}

function filter(room) {
	const nothing = { not_types: ["*"] };
	return JSON.stringify({
		presence: nothing, account_data: nothing,
		room: { rooms: [room], ephemeral: nothing, account_data: nothing, timeline: { types: [type] }, state: { types: [type] } },
	});
}

function left(visit, event) {
	const seconds = ((event.origin_server_ts - visit.lastSign) / 1000).toFixed(1);
	visit.outcome = visit.hungUp ? "You have hung up, and the leave has arrived." : `The leave has arrived, ${seconds} s after the last sign of life.`;
	const { content, event_id, sender, state_key } = event;
	recall("The leave, as everybody in the room gets it", 'curl -H "Authorization: Bearer $T" "$H/sync?since=$SINCE&timeout=30000"',
		{ type: event.type, state_key, sender, content, event_id });
	end();
	draw();
	clearInterval(drawing);
	$("join-form").hidden = false;
}

function end() {
	current.beating = false;
	clearTimeout(current.timer);
	current.abort.abort();
}

$("stop-beating").addEventListener("click", () => {
	current.beating = !current.beating;
	clearTimeout(current.timer);
	if (current.beating) guarded(null, () => beat(current)).then(() => beatOn(current));
	draw();
});
$("beat").addEventListener("click", (event) => guarded(event.target, () => beat(current)));
$("hang-up").addEventListener("click", (event) => guarded(event.target, async () => {
	current.hungUp = true;
	current.beating = false;
	await use("I hang up: send the leave now", "SEND", current.tokens.send_token);
}));

function draw() {
	const { outcome, beating, deadline, timeout } = current;
	const ms = Math.max(0, deadline - Date.now());
	$("call-left").value = outcome ? 0 : ms / timeout;
	const text = outcome || (beating ? "You are in the call. Heartbeats hold your leave back." :
		"The heartbeat has stopped. The server will send your leave when the time is over.");
	if ($("call-state").textContent !== text) $("call-state").textContent = text;
	$("call-state").className = outcome ? "good" : "";
	$("stop-beating").textContent = beating ? "Stop the heartbeat" : "Start the heartbeat again";
	$("call-left").hidden = $("call-buttons").hidden = Boolean(outcome);
}
