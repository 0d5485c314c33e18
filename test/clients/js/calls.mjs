// All functions of matrix-js-sdk for delayed events, each with the final result for the event.

import assert from "node:assert/strict";
import { client, managed, room, tell, until } from "./client.mjs";

const me = client.getUserId();
const hour = 3_600_000;
const rounding = 5; // ms by which two times from the server may differ
const unknown = "m.no.such.delayed.event";
const events = () => room.getLiveTimeline().getEvents();
const message = (body) => ({ msgtype: "m.text", body });
const bodied = (body) => () => events().find((event) => event.getContent().body === body);
const notFound = (e) => {
	assert.ok(e.httpStatus === 404 && e.errcode === "M_NOT_FOUND", e);
	return true;
};

const delay = async (ms, body, txn) =>
	(await client._unstable_sendDelayedEvent(room.roomId, { delay: ms }, null, "m.room.message", message(body), txn)).delay_id;
const delayState = async (ms, type, key, content) =>
	(await client._unstable_sendDelayedStateEvent(room.roomId, { delay: ms }, type, content, key)).delay_id;
const listed = async (id) => {
	const { delayed_events: all } = await client._unstable_getDelayedEvents();
	return all.find((item) => item.delay_id === id);
};

// once is a call that must need exactly one request: no attempt with another dialect, no token added later.
const once = (call) => async (id) => {
	const before = managed.length;
	try {
		return await call(id);
	} finally {
		assert.equal(managed.length, before + 1, managed.slice(before).join());
	}
};

// The ways in which this sdk acts on a delayed event: the action in the body, or in the path.
const ways = {
	body: {
		send: once((id) => client._unstable_updateDelayedEvent(id, "send")),
		cancel: once((id) => client._unstable_updateDelayedEvent(id, "cancel")),
		restart: once((id) => client._unstable_updateDelayedEvent(id, "restart")),
	},
};
if (client._unstable_restartScheduledDelayedEvent) {
	ways.path = {
		send: once((id) => client._unstable_sendScheduledDelayedEvent(id)),
		cancel: once((id) => client._unstable_cancelScheduledDelayedEvent(id)),
		restart: once((id) => client._unstable_restartScheduledDelayedEvent(id)),
	};
}

const checks = {
	async "a message comes when its time has come"() {
		const id = await delay(2000, "later", "a transaction");
		assert.equal(await delay(2000, "later", "a transaction"), id, "the repeated transaction");
		const { room_id, type, state_key, delay: ms, running_since: since, content } = await listed(id);
		assert.deepEqual({ room_id, type, state_key, ms, content },
			{ room_id: room.roomId, type: "m.room.message", state_key: undefined, ms: 2000, content: message("later") });
		assert.ok(Math.abs(since - Date.now()) < 60_000, `running since ${since}`);
		const event = await until("the message", bodied("later"));
		assert.equal(event.getSender(), me);
		assert.ok(event.getTs() >= since + 2000 - rounding, `sent at ${event.getTs()}, due at ${since + 2000}`);
		assert.equal(event.getUnsigned()["org.matrix.msc4140.delay_id"], id, "unsigned of the sender's own event");
		await until("its end in the list", async () => !(await listed(id)));
		for (const way of Object.values(ways)) await assert.rejects(way.restart(id), notFound);
		assert.equal(events().filter((e) => e.getContent().body === "later").length, 1);
	},

	async "state comes under its key"() {
		for (const key of ["", "st/a te ü%", "_@x:y_DEVICE_m.call"]) {
			const id = await delayState(2000, "org.example.state", key, { of: key });
			assert.equal((await listed(id)).state_key, key);
			const state = () => room.currentState.getStateEvents("org.example.state", key);
			assert.equal(state(), null, "too early");
			const event = await until(`the state under ${key}`, state);
			assert.deepEqual(event.getContent(), { of: key });
		}
	},

	async "errors say what the sdk looks for"() {
		for (const way of Object.values(ways)) {
			for (const act of Object.values(way)) await assert.rejects(act(unknown), notFound);
		}
		for (const schedule of [() => delay(200 * 24 * hour, "never"), () => delayState(200 * 24 * hour, "org.example.state", "", {})]) {
			await assert.rejects(schedule(), (e) => {
				assert.equal(e.httpStatus, 400);
				assert.equal(e.errcode, "M_UNKNOWN");
				assert.equal(e.data["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
				assert.equal(e.data["org.matrix.msc4140.max_delay"], 7 * 24 * hour);
				return true;
			});
		}
	},
};

for (const [where, { send, cancel, restart }] of Object.entries(ways)) {
	checks[`send, with the action in the ${where}`] = async () => {
		const id = await delay(hour, `sent by ${where}`);
		await send(id);
		const event = await until("the message", bodied(`sent by ${where}`));
		assert.ok(Math.abs(event.getTs() - Date.now()) < 60_000, `sent at ${event.getTs()}`);
		assert.equal(await listed(id), undefined);
		await assert.rejects(restart(id), notFound);
		await assert.rejects(cancel(id), notFound);
	};
	checks[`cancel, with the action in the ${where}`] = async () => {
		const id = await delay(2000, `cancelled by ${where}`);
		await cancel(id);
		assert.equal(await listed(id), undefined);
		await assert.rejects(restart(id), notFound);
		await assert.rejects(send(id), notFound);
		await delay(3000, `after ${where}`);
		await until("the next message", bodied(`after ${where}`));
		assert.equal(bodied(`cancelled by ${where}`)(), undefined);
	};
	checks[`restart, with the action in the ${where}`] = async () => {
		const id = await delay(3000, `restarted by ${where}`);
		const before = await listed(id);
		await until("another millisecond", () => Date.now() > before.running_since + 500);
		await restart(id);
		const after = await listed(id);
		assert.ok(after.running_since > before.running_since, `running since ${before.running_since}, then ${after.running_since}`);
		const event = await until("the message", bodied(`restarted by ${where}`));
		assert.ok(event.getTs() >= after.running_since + 3000 - rounding, `sent at ${event.getTs()}, restarted at ${after.running_since}`);
	};
}

if (ways.path) { // since then the list can be filtered as well
	checks["the list can be filtered"] = async () => {
		const [over, kept] = [await delay(hour, "never"), await delay(hour, "never")];
		await ways.path.cancel(over);
		const found = async (...filter) => {
			const { delayed_events: all } = await client._unstable_getDelayedEvents(...filter);
			return all.map((item) => item.delay_id).filter((id) => id === over || id === kept);
		};
		assert.deepEqual(await found(), [kept]);
		assert.deepEqual(await found("scheduled"), [kept]);
		assert.deepEqual(await found("finalised"), [over]);
		assert.deepEqual(await found(undefined, kept), [kept]);
		assert.deepEqual(await found("finalised", [over, kept]), [over]);
		await ways.path.cancel(kept);
	};
}

if (client._unstable_getDelayedEvent) {
	checks["a single one can be looked up, finished or not"] = async () => {
		const id = await delay(2000, "looked up");
		const found = await client._unstable_getDelayedEvent(id);
		assert.equal(found.delay_id, id);
		assert.equal(found.room_id, room.roomId);
		assert.equal(found.type, "m.room.message");
		assert.equal(found.delay_ms, 2000);
		assert.ok(Math.abs(found.delayed_since_ts - Date.now()) < 60_000);
		assert.deepEqual(found.content, message("looked up"));
		assert.ok(!("finalised" in found));
		const event = await until("the message", bodied("looked up"));
		const { finalised } = await until("its outcome", async () => {
			const ended = await client._unstable_getDelayedEvent(id);
			return ended.finalised && ended;
		});
		assert.equal(finalised.event_id, event.getId());
		assert.ok(finalised.finalised_ts >= found.delayed_since_ts + 2000 - rounding);
		await assert.rejects(client._unstable_getDelayedEvent(unknown), notFound);
	};
}

checks["the sdk's picture of the room's state is right"] = async () => {
	for (const { type, state_key: key, event_id: id } of await client.roomState(room.roomId)) {
		assert.equal(room.currentState.getStateEvents(type, key)?.getId(), id, `${type} ${key}`);
	}
};

// One after the other, so that the log of requests is readable.
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
	try {
		await check();
		tell({ passed: name });
	} catch (e) {
		failed++;
		tell({ failed: name, error: String(e.stack) });
	}
}
process.exit(failed ? 1 : 0);
