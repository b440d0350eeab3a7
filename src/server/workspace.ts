import { createWorkspaceApp } from "../../rooms/workspace/worker.ts";

export { WorkspaceRoom } from "../../rooms/workspace/worker.ts";
export default createWorkspaceApp();
