import type { ToolDefinition } from "./contract.ts";

/**
 * What a model may ask a Rollcall client to do. The client carries the call out itself, with its own
 * token: nothing of it runs here.
 */
export const TOOLS: readonly ToolDefinition[] = [
  {
    type: "function",
    function: {
      name: "list_presence",
      description:
        "Who is in a workspace now, with status and number of devices: GET /api/v1/presence?room=workspace:<workspaceId>",
      parameters: {
        type: "object",
        properties: { workspaceId: { type: "string" } },
        required: ["workspaceId"],
        additionalProperties: false,
      },
    },
  },
  {
    type: "function",
    function: {
      name: "set_status",
      description: "Sets the user's own presence status, by the event presence.status",
      parameters: {
        type: "object",
        properties: { status: { type: "string", enum: ["online", "away", "busy"] } },
        required: ["status"],
        additionalProperties: false,
      },
    },
  },
  {
    type: "function",
    function: {
      name: "show_image",
      description: "Shows the user an uploaded image: GET /api/images/<key>",
      parameters: {
        type: "object",
        properties: { key: { type: "string", description: "As POST /api/upload-image gave it" } },
        required: ["key"],
        additionalProperties: false,
      },
    },
  },
];
