import type { ComponentChildren, RefObject, TargetedSubmitEvent } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { explain } from "./api.ts";

/** The room or the user that is open; null: neither. */
export type Place = { kind: "room" | "user"; id: string } | null;

export function addressOf(place: Place): string {
  return place === null ? "/admin" : `/admin?${new URLSearchParams({ [place.kind]: place.id })}`;
}

/** A link to a room or a user. It opens in this page, or as links do in a tab of its own. */
export function PlaceLink(props: {
  to: NonNullable<Place>;
  go: (to: Place) => void;
  children: ComponentChildren;
}) {
  const { to, go, children } = props;
  function follow(event: MouseEvent) {
    if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) {
      return;
    }
    event.preventDefault();
    go(to);
  }
  return (
    <a href={addressOf(to)} onClick={follow}>
      {children}
    </a>
  );
}

/** An error in plain words, with its code. */
export function Fault({ error }: { error: unknown }) {
  const { text, code } = explain(error);
  return (
    <p class="fault" role="alert">
      {text} {code !== "" && <code>{code}</code>}
    </p>
  );
}

/** A time with its day where that is not today. */
export function moment(ms: number): string {
  const date = new Date(ms);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString() : date.toLocaleString();
}

/**
 * Asks before something is done that cannot be undone. Escape closes it, and the focus goes back to
 * where it was.
 *
 * @param fallback gets the focus when the element that had it is gone, or soon will be
 */
export function Confirm<T>(props: {
  title: string;
  action: string;
  children: ComponentChildren;
  fallback: RefObject<HTMLElement | null>;
  run: () => Promise<T>;
  onDone: (result: T) => void;
  onClose: () => void;
}) {
  const { title, action, children, fallback, run, onDone, onClose } = props;
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const titleId = useId();
  const textId = useId();
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);

  useEffect(() => {
    dialog.current?.showModal();
    // Not a button: the Enter that opened this may still be pressed.
    heading.current?.focus();
  }, []);

  function closed() {
    onClose();
    if (document.activeElement === document.body) fallback.current?.focus();
  }

  async function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    if (isBusy) return;
    setBusy(true);
    setError(null);
    try {
      const result = await run();
      dialog.current?.close();
      fallback.current?.focus();
      onDone(result);
    } catch (thrown) {
      setError(thrown);
      setBusy(false);
    }
  }

  return (
    <dialog
      ref={dialog}
      class="confirm"
      aria-labelledby={titleId}
      aria-describedby={textId}
      onClose={closed}
    >
      <form onSubmit={submit}>
        <h2 id={titleId} ref={heading} tabIndex={-1}>
          {title}
        </h2>
        <div class="confirm-text" id={textId}>
          {children}
        </div>
        {error !== null && <Fault error={error} />}
        <div class="actions">
          <button type="button" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
          <button type="submit" class="danger" aria-disabled={isBusy}>
            {action}
          </button>
        </div>
      </form>
    </dialog>
  );
}
