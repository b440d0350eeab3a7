import type { ComponentChildren } from "preact";
import { ThemeSwitch } from "./theme.tsx";

/** The top of both pages. @param links where the console and the operator's page are from here */
export function Rail(props: {
  page: "console" | "operator";
  idea: string;
  links: { console: string; operator: string };
  children?: ComponentChildren;
}) {
  const { page, idea, links, children } = props;
  return (
    <header class="rail">
      <h1>Rollcall</h1>
      <nav class="pages" aria-label="Pages">
        <a href={links.console} aria-current={page === "console" ? "page" : undefined}>
          Console
        </a>
        <a href={links.operator} aria-current={page === "operator" ? "page" : undefined}>
          Operator
        </a>
      </nav>
      <p>{idea}</p>
      {children}
      <ThemeSwitch />
    </header>
  );
}
