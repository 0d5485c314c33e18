// A Matrix client that can do one thing: show Element Call as a widget, and pass on what it asks of the homeserver. The test
// calls enter() and reads state.
const { ClientWidgetApi, Widget, WidgetDriver } = globalThis.mxwidgets;

const unstable = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

globalThis.state = { actions: [], asked: [], failed: [], members: [] };

// request asks the homeserver. It waits out rate limits, and outages of a while.
async function request(user, method, path, body, query = {}) {
  const url = user.url + path + "?" + new URLSearchParams(query);
  for (let attempt = 0; ; attempt++) {
    let answer;
    try {
      answer = await fetch(url, {
        method,
        headers: { Authorization: `Bearer ${user.token}`, "Content-Type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (e) {
      if (attempt > 60) throw e;
      await new Promise((wake) => setTimeout(wake, 500));
      continue;
    }
    const content = await answer.json();
    if (answer.ok) return content;
    if (answer.status === 429 || answer.status >= 502) {
      await new Promise((wake) => setTimeout(wake, content.retry_after_ms ?? 500));
      continue;
    }
    state.failed.push(`${method} ${path}: ${answer.status} ${content.errcode}`);
    throw Object.assign(new Error(content.error), { content, status: answer.status, url });
  }
}

class Driver extends WidgetDriver {
  constructor(user) {
    super();
    this.user = user;
    this.txn = 0;
  }

  room(rest) {
    return `/_matrix/client/v3/rooms/${encodeURIComponent(this.user.room)}/${rest}`;
  }

  send(type, content, stateKey, query) {
    const rest = stateKey === null || stateKey === undefined
      ? `send/${encodeURIComponent(type)}/w${Date.now()}.${this.txn++}`
      : `state/${encodeURIComponent(type)}/${encodeURIComponent(stateKey)}`;
    return request(this.user, "PUT", this.room(rest), content, query);
  }

  async validateCapabilities(requested) {
    return requested;
  }

  async sendEvent(type, content, stateKey = null) {
    const sent = await this.send(type, content, stateKey);
    return { roomId: this.user.room, eventId: sent.event_id };
  }

  async sendDelayedEvent(delay, type, content, stateKey = null) {
    state.asked.push(`delay ${delay}`);
    const scheduled = await this.send(type, content, stateKey, { "org.matrix.msc4140.delay": delay });
    return { roomId: this.user.room, delayId: scheduled.delay_id };
  }

  manage(id, action) {
    state.asked.push(action);
    return request(this.user, "POST", `${unstable}/${encodeURIComponent(id)}`, { action });
  }

  cancelScheduledDelayedEvent(id) {
    return this.manage(id, "cancel");
  }

  restartScheduledDelayedEvent(id) {
    return this.manage(id, "restart");
  }

  sendScheduledDelayedEvent(id) {
    return this.manage(id, "send");
  }

  async sendToDevice(type, encrypted, messages) {
    await request(this.user, "PUT", `/_matrix/client/v3/sendToDevice/${encodeURIComponent(type)}/w${Date.now()}.${this.txn++}`, { messages });
  }

  async readRoomState(roomId, type, stateKey) {
    const all = await request(this.user, "GET", this.room("state"));
    return all.filter((e) => e.type === type && (stateKey === undefined || e.state_key === stateKey));
  }

  async readRoomTimeline() {
    return [];
  }

  async readEventRelations() {
    return { chunk: [] };
  }

  async readStickyEvents() {
    return [];
  }

  askOpenID(observer) {
    const path = `/_matrix/client/v3/user/${encodeURIComponent(this.user.id)}/openid/request_token`;
    request(this.user, "POST", path, {}).then(
      (token) => observer.update({ state: "allowed", token }),
      () => observer.update({ state: "blocked" }),
    );
  }

  async getRtcTransports() {
    return request(this.user, "GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports");
  }

  getKnownRooms() {
    return [this.user.room];
  }

  processError(e) {
    return e.content && { matrix_api_error: { http_status: e.status, http_headers: {}, url: e.url, response: e.content } };
  }
}

// follow passes on what happens in the room, until the page is closed.
async function follow(api, user) {
  for (let since; ; ) {
    const query = { timeout: 10000, ...(since && { since }) };
    const news = await request(user, "GET", "/_matrix/client/v3/sync", undefined, query);
    const room = news.rooms?.join?.[user.room];
    const timeline = room?.timeline?.events ?? [];
    const changed = [...(room?.state?.events ?? []), ...timeline.filter((e) => e.state_key !== undefined)];
    for (const event of changed) await api.feedStateUpdate({ ...event, room_id: user.room });
    if (since) for (const event of timeline) await api.feedEvent({ ...event, room_id: user.room });
    for (const message of news.to_device?.events ?? []) await api.feedToDevice(message, false);
    since = news.next_batch;
  }
}

// enter shows the call and joins it.
globalThis.enter = async (user) => {
  const here = location.origin;
  const parameters = new URLSearchParams({
    widgetId: "call", parentUrl: here, userId: user.id, deviceId: user.device, roomId: user.room, baseUrl: user.url,
    intent: "join_existing", skipLobby: "true", perParticipantE2EE: "false", lang: "en", sendNotificationType: "notification",
    ...user.parameters,
  });
  const url = `${here}/node_modules/@element-hq/element-call-embedded/dist/index.html?#?${parameters}`;
  const frame = document.createElement("iframe");
  frame.allow = "camera; microphone; display-capture; autoplay";
  document.body.append(frame);
  const api = new ClientWidgetApi(
    new Widget({ id: "call", creatorUserId: user.id, type: "m.custom", url, waitForIframeLoad: false }), frame, new Driver(user));
  api.setViewedRoomId(user.room);
  for (const action of ["io.element.join", "im.vector.hangup", "io.element.close", "io.element.device_mute", "set_always_on_screen"]) {
    api.on(`action:${action}`, (ev) => {
      ev.preventDefault();
      state.actions.push(action);
      api.transport.reply(ev.detail, action === "set_always_on_screen" ? { success: true } : {});
    });
  }
  api.on("ready", () => {
    state.actions.push("ready");
    follow(api, user).catch((e) => state.failed.push(`sync: ${e}`));
  });
  frame.src = url;
};

// seen returns what the page of Element Call shows: how many people's videos play. Somebody may have several tiles.
globalThis.seen = () => {
  const page = document.querySelector("iframe")?.contentDocument;
  const playing = [...(page?.querySelectorAll("video") ?? [])].filter((v) => v.readyState >= 2 && v.videoWidth > 0 && v.srcObject?.active);
  return {
    people: new Set(playing.map((v) => v.srcObject.getVideoTracks()[0]?.id)).size,
    text: page?.body?.innerText ?? "",
  };
};

// "make call" names the user behind the #.
if (location.hash.length > 1) {
  const user = await fetch("users/" + location.hash.slice(1));
  document.title = location.hash.slice(1);
  globalThis.enter(await user.json());
}
