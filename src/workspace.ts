import { createWorkspaceApp } from "./http/workspace/app.ts";

export { WorkspaceRoom } from "../rooms/workspace.ts";
export default createWorkspaceApp();
