export * from "./app.ts";
export * from "./backend.ts";
