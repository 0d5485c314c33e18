// One participant of a call: matrix-js-sdk's own MatrixRTC session. Lines on standard input make it join and leave. It
// prints who is in the call whenever that changes. The process ends with its standard input.

import { createInterface } from "node:readline";
import { client, managed, room, tell } from "./client.mjs";

const session = client.matrixRTC.getRoomSession(room);
const show = (members) => tell({ members: members.map((m) => m.userId ?? m.sender).sort() });
session.on("memberships_changed", (_, now) => show(now));
session.on("membership_manager_error", (e) => tell({ error: String(e) }));

const transport = { type: "livekit", livekit_service_url: "https://sfu.example.org", livekit_alias: room.roomId };
const orders = {
	join: () => session.joinRoomSession([transport]), // with the sdk's defaults: leave after 8 s, heartbeat every 5 s
	leave: async () => tell({ left: await session.leaveRoomSession(10_000) }),
	requests: () => tell({ requests: managed }),
};

await session.initialMembershipCalculated;
show(session.memberships);
for await (const line of createInterface({ input: process.stdin })) await orders[line]();
process.exit(0);
