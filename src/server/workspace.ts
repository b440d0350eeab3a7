import { createWorkspaceApp } from "../../rooms/workspace/routes.ts";

export { WorkspaceRoom } from "../../rooms/workspace/room.ts";
export default createWorkspaceApp();
