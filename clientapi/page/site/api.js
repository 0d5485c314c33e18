// The session, and requests to the server that this page comes from.

const key = "futures.session"; // of this tab alone: sessionStorage ends with it

export let session = read();

function read() {
	try {
		return JSON.parse(sessionStorage.getItem(key));
	} catch {
		return null;
	}
}

function keep(value) {
	session = value;
	if (value) sessionStorage.setItem(key, JSON.stringify(value));
	else sessionStorage.removeItem(key);
}

let ahead = 0; // by how much the server's clock is ahead of this one, ms

// serverNow is the time by the server's clock, which the timestamps in its answers follow.
export const serverNow = () => Date.now() + ahead;

function compareClocks(response) {
	const difference = Date.parse(response.headers.get("Date")) - Date.now();
	ahead = Math.abs(difference) > 3000 ? difference : 0; // the header has whole seconds, and took its time
}

export class APIError extends Error {
	constructor(status, body) {
		super(body.error || `The server answered ${status}.`);
		this.status = status;
		this.errcode = body.errcode || "";
	}
}

// call sends one request and returns the answer's JSON. The access token goes into a header, never into a URL.
export async function call(method, path, { query, body, token = session?.token, signal } = {}) {
	const headers = {};
	if (token) headers.Authorization = `Bearer ${token}`;
	if (body !== undefined) headers["Content-Type"] = "application/json";
	const url = query ? `${path}?${new URLSearchParams(query)}` : path;
	let response;
	try {
		response = await fetch(url, {
			method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
			credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer", redirect: "error",
		});
	} catch (error) {
		if (signal?.aborted) throw error;
		throw new Error("The server cannot be reached.");
	}
	compareClocks(response);
	const answer = await response.json().catch(() => ({}));
	if (response.ok) return answer;
	if (response.status === 401 && session && token === session.token) {
		keep(null);
		dispatchEvent(new Event("signed-out"));
	}
	throw new APIError(response.status, answer);
}

export const client = (rest) => `/_matrix/client/v3/${rest}`;

// at writes path segments.
export const at = (...segments) => segments.map(encodeURIComponent).join("/");

// unique makes a name that nobody else uses. (randomUUID is there only where the page was loaded securely.)
export function unique() {
	return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export async function signIn(user, password) {
	const answer = await call("POST", client("login"), {
		token: "", body: {
			type: "m.login.password", identifier: { type: "m.id.user", user }, password,
			initial_device_display_name: "Futures page",
		},
	});
	keep({ token: answer.access_token, user: answer.user_id, own: true });
}

export async function useToken(token) {
	const answer = await call("GET", client("account/whoami"), { token });
	keep({ token, user: answer.user_id, own: false });
}

// signOut ends the session if this page has made it. A token that was pasted is another program's too, and is only forgotten.
export async function signOut() {
	const { token, own } = session;
	keep(null);
	if (own) await call("POST", client("logout"), { token, body: {} });
}

const nothing = { not_types: ["*"] };

// joinedRooms lists the user's rooms by name.
export async function joinedRooms() {
	const filter = {
		presence: nothing, account_data: nothing,
		room: { timeline: { limit: 1 }, ephemeral: nothing, account_data: nothing, state: { types: ["m.room.name", "m.room.canonical_alias"] } },
	};
	const answer = await call("GET", client("sync"), { query: { filter: JSON.stringify(filter), timeout: 0 } });
	const rooms = Object.entries(answer.rooms?.join ?? {}).map(([id, room]) => ({ id, name: nameOf(id, room) }));
	return rooms.sort((a, b) => a.name.localeCompare(b.name));
}

function nameOf(id, room) {
	const events = [...(room.state?.events ?? []), ...(room.timeline?.events ?? [])];
	const content = (type) => events.findLast((event) => event.type === type && event.state_key === "")?.content ?? {};
	return content("m.room.name").name || content("m.room.canonical_alias").alias || room.summary?.["m.heroes"]?.join(", ") || id;
}
