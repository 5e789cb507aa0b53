// A tool `mail` for Pi (https://github.com/badlogic/pi-mono), over `agent-mailer mail`.
// Copy it to .pi/extensions/ in the project, or to ~/.pi/agent/extensions/. Written from Pi's documentation.

import type { ExtensionAPI } from "@mariozechner/pi-coding-agent";
import { Type } from "@sinclair/typebox";

type Wanted = { action: string; to?: string; subject?: string; text?: string; id?: string; name?: string };

function words(wanted: Wanted): string[] {
  const given = (name: keyof Wanted): string => {
    const value = wanted[name];
    if (!value) throw new Error(`mail ${wanted.action} needs ${name}`);
    return value;
  };
  switch (wanted.action) {
    case "register":
      return ["register", ...(wanted.name ? ["--as", wanted.name] : []), "--json"];
    case "read":
      return ["read", "--json", ...(wanted.id ? ["--", wanted.id] : ["--unread"])];
    case "send":
      return ["send", "--to", given("to"), "--subject", given("subject"), "--body", given("text"), "--json"];
    case "reply":
      return ["reply", "--body", given("text"), "--", given("id")];
    case "contacts":
      return ["contacts", "--json"];
    default:
      throw new Error(`mail knows register, read, send, reply and contacts, not ${wanted.action}`);
  }
}

export default function (pi: ExtensionAPI) {
  pi.registerTool({
    name: "mail",
    label: "Mail",
    description: "Mail of this project: read what is unread (or one by id), send, reply, list contacts, register a name.",
    parameters: Type.Object({
      action: Type.String({ description: "register, read, send, reply or contacts" }),
      to: Type.Optional(Type.String({ description: "send: an address" })),
      subject: Type.Optional(Type.String()),
      text: Type.Optional(Type.String({ description: "send, reply: the text" })),
      id: Type.Optional(Type.String({ description: "read, reply: a message" })),
      name: Type.Optional(Type.String({ description: "register: another name than the agent's" })),
    }),
    async execute(_call, params, signal) {
      const done = await pi.exec("agent-mailer", ["mail", ...words(params as Wanted)], { signal });
      if (done.code !== 0) throw new Error(done.stderr.trim() || `agent-mailer ended with ${done.code}`);
      return { content: [{ type: "text", text: done.stdout }], details: {} };
    },
  });
}
