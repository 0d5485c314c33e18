// The matrix-js-sdk client that a script is about: logged in, synced, in its room. Who it is stands in the
// environment variable CLIENT, as JSON. Standard output carries what the script has to tell, one JSON value a
// line; whatever the sdk logs, and each request it makes, goes to standard error.

import { webcrypto } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

// The sdk is written for Node 22. These are all it misses in 18 and 20.
globalThis.crypto ??= webcrypto;
Promise.withResolvers ??= () => {
	const all = {};
	all.promise = new Promise((resolve, reject) => Object.assign(all, { resolve, reject }));
	return all;
};
for (const level of ["log", "info", "debug", "trace"]) console[level] = console.error;

const { sdk: name, url, user, device, token, room: roomID } = JSON.parse(process.env.CLIENT);

export const sdk = await import(name);

/** tell hands one value to whoever has started the script. */
export const tell = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

/** managed lists the requests about delayed events that exist already, as "METHOD path-after-the-prefix status". */
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

/** until waits for a true value of what condition returns or resolves to, and returns it. */
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
