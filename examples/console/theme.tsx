import { useState } from "preact/hooks";
import { Switch } from "./parts.tsx";

type Theme = "auto" | "light" | "dark";
const THEMES: readonly Theme[] = ["auto", "light", "dark"];
const THEME_KEY = "rollcall.theme";

/** What was chosen in this browser. */
function storedTheme(): Theme {
  return THEMES.find((theme) => theme === localStorage.getItem(THEME_KEY)) ?? "auto";
}

/** Shows the page in these colours; `auto` leaves it to the system. */
export function applyTheme(theme: Theme = storedTheme()): void {
  document.documentElement.dataset.theme = theme;
}

export function ThemeSwitch() {
  const [theme, setTheme] = useState(storedTheme);
  function choose(next: Theme) {
    localStorage.setItem(THEME_KEY, next);
    applyTheme(next);
    setTheme(next);
  }
  return (
    <Switch<Theme> legend="Colours" isQuiet options={THEMES} value={theme} onChange={choose} />
  );
}
