import { render } from "preact";
import { App, firstVisit, message } from "./app.tsx";
import { applyTheme } from "./theme.tsx";

async function begin(root: HTMLElement): Promise<void> {
  try {
    const config = await fetch("/console/config.json");
    const { development } = (await config.json()) as { development: boolean };
    render(<App first={development ? await firstVisit() : null} />, root);
  } catch (error) {
    render(<p role="alert">The console cannot start: {message(error)}</p>, root);
  }
}

// Before anything is drawn.
applyTheme();
const root = document.getElementById("console");
if (root) void begin(root);
