// The matrix-js-sdk client of a script: logged in, synced, in its room. The environment variable CLIENT has the user, as
// JSON. Standard output has the script's results, one JSON value a line. The sdk's log, and each request, go to standard
// error.

import { webcrypto } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

// The sdk is written for Node 22. Node 18 and 20 lack only these.
globalThis.crypto ??= webcrypto;
Promise.withResolvers ??= () => {
	const all = {};
	all.promise = new Promise((resolve, reject) => Object.assign(all, { resolve, reject }));
	return all;
};
for (const level of ["log", "info", "debug", "trace"]) console[level] = console.error;

const { sdk: name, url, user, device, token, room: roomID } = JSON.parse(process.env.CLIENT);

export const sdk = await import(name);

/** tell passes one value to the process that started the script. */
export const tell = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

/** managed lists the requests about existing delayed events, as "METHOD path-after-the-prefix status". */
export const managed = [];

async function recordingFetch(resource, options = {}) {
	const { pathname } = new URL(resource);
	const [, delayed] = pathname.split("/unstable/org.matrix.msc4140/delayed_events");
	try {
		const response = await fetch(resource, options);
		if (delayed !== undefined) managed.push(`${options.method} ${delayed} ${response.status}`);
		if (!pathname.endsWith("/sync")) console.error(`${options.method} ${pathname} ${response.status}`);
		return response;
	} catch (e) {
		console.error(`${options.method} ${pathname}: ${e.cause ?? e}`);
		throw e;
	}
}

export const client = sdk.createClient({
	baseUrl: url, userId: user, deviceId: device, accessToken: token, disableVoip: true, fetchFn: recordingFetch,
});

/** until waits until condition returns, or resolves to, a true value, and returns it. */
export async function until(what, condition, ms = 20_000) {
	for (const end = Date.now() + ms; Date.now() < end; await sleep(25)) {
		const value = await condition();
		if (value) return value;
	}
	throw new Error(`${ms} ms have passed without: ${what}`);
}

const synced = new Promise((resolve) => {
	client.on("sync", (state) => state === "PREPARED" && resolve());
});
await client.startClient({ initialSyncLimit: 20 });
await synced;

export const room = await until("the room", () => client.getRoom(roomID));
