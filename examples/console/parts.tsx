import type { ComponentChildren, RefObject } from "preact";
import { useId } from "preact/hooks";

/**
 * One panel, one idea: what it is, which wire it shows, and a sentence on it.
 *
 * @param heading takes the focus when what had it is gone
 */
export function Panel(props: {
  name: string;
  title: string;
  wire: string;
  idea: string;
  heading?: RefObject<HTMLHeadingElement | null>;
  children: ComponentChildren;
}) {
  const id = useId();
  return (
    <section class={`panel ${props.name}`} aria-labelledby={id}>
      <header>
        <h2 id={id} ref={props.heading ?? null} tabIndex={props.heading && -1}>
          {props.title}
        </h2>
        <code class="wire">{props.wire}</code>
        <p>{props.idea}</p>
      </header>
      {props.children}
    </section>
  );
}

/** A row of radio buttons that looks like a switch. */
export function Switch<T extends string>(props: {
  legend: string;
  options: readonly T[];
  value: T;
  onChange: (value: T) => void;
  isQuiet?: boolean;
}) {
  const name = useId();
  return (
    <fieldset class="switch">
      <legend class={props.isQuiet ? "unseen" : ""}>{props.legend}</legend>
      <span class="positions">
        {props.options.map((option) => (
          <label key={option} data-option={option}>
            <input
              type="radio"
              name={name}
              value={option}
              checked={option === props.value}
              onChange={() => props.onChange(option)}
            />
            <span>{option}</span>
          </label>
        ))}
      </span>
    </fieldset>
  );
}

export function Lamp({ state }: { state: string }) {
  return <i class="lamp" data-state={state} aria-hidden="true" />;
}

/** A time of day with seconds, as the reader's locale has it. */
export function clock(ms: number): string {
  return new Date(ms).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  });
}

/** What went wrong, in words. */
export function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** The letters of an avatar. */
export function initials(name: string): string {
  const words = name.trim().split(/\s+/);
  const letters = words.length > 1 ? words.map((word) => [...word][0]) : [...name.trim()];
  return letters.slice(0, 2).join("").toUpperCase();
}

/** A hue in degrees, always the same for the same name. */
export function hueOf(name: string): number {
  let hash = 0;
  for (const char of name) hash = (Math.imul(hash, 31) + (char.codePointAt(0) ?? 0)) >>> 0;
  // The golden angle keeps neighbouring hashes apart.
  return Math.round((hash * 137.508) % 360);
}
