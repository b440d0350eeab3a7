import { render } from "preact";
import { AdminPage, firstOperator } from "./admin/page.tsx";
import { App, firstVisit } from "./app.tsx";
import { message } from "./parts.tsx";
import { applyTheme } from "./theme.tsx";

async function begin(root: HTMLElement): Promise<void> {
  try {
    const config = await fetch("/console/config.json");
    const { development } = (await config.json()) as { development: boolean };
    const page = /^\/admin\/?$/.test(location.pathname) ? (
      <AdminPage first={development ? await firstOperator() : null} />
    ) : (
      <App first={development ? await firstVisit() : null} />
    );
    render(page, root);
  } catch (error) {
    render(<p role="alert">The console cannot start: {message(error)}</p>, root);
  }
}

// Before anything is drawn.
applyTheme();
const root = document.getElementById("console");
if (root) void begin(root);
