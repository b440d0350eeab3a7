/**
 * `createApp` makes a Worker of the ready-made rooms. In every other runtime the module is the client for backends:
 * {@link rollcall} and {@link verifyWebhook}.
 *
 * @module
 */
export * from "./app.ts";
export * from "./backend.ts";
