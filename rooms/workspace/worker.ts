/**
 * The second Worker: its actor and its routes. Only this entry imports LiveStore.
 *
 * @module
 */
export { WorkspaceRoom, type WorkspaceRoomEnv } from "./room.ts";
export { createWorkspaceApp, type WorkspaceEnv } from "./routes.ts";
