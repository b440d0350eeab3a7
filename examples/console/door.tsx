import type { TargetedSubmitEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Access, accessOf } from "./access.ts";
import { message } from "./parts.tsx";

/**
 * People bring tokens of their own: where the server hands out none, and where they want to be someone
 * else.
 *
 * @param forDevices whether it also asks for what the devices need
 */
export function Door(props: {
  idea: string;
  forDevices?: boolean;
  enter: (access: Access) => void;
  cancel?: () => void;
}) {
  const { idea, forDevices = false, enter, cancel } = props;
  const [jwt, setJwt] = useState("");
  const [mintToken, setMintToken] = useState("");
  const [userUuid, setUserUuid] = useState("");
  const [fault, setFault] = useState<string | null>(null);
  const first = useRef<HTMLInputElement>(null);
  useEffect(() => first.current?.focus(), []);

  function submit(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    try {
      const tokens = {
        jwt: jwt.trim(),
        mintToken: mintToken.trim(),
        userUuid: userUuid.trim(),
      };
      enter(accessOf(tokens));
    } catch (error) {
      setFault(message(error));
    }
  }

  return (
    <form class="door" aria-label="Your tokens" onSubmit={submit}>
      <h2>Bring your own {forDevices ? "tokens" : "token"}</h2>
      <p>{idea}</p>
      <label>
        <span>JWT, with a userId, signed with JWT_SECRET</span>
        <input
          ref={first}
          required
          autocomplete="off"
          spellcheck={false}
          value={jwt}
          onInput={(e) => setJwt(e.currentTarget.value)}
        />
      </label>
      {forDevices && (
        <>
          <label>
            <span>Minting token, to play daemons (may be left out)</span>
            <input
              type="password"
              autocomplete="off"
              value={mintToken}
              onInput={(e) => setMintToken(e.currentTarget.value)}
            />
          </label>
          <label>
            <span>user_id whose devices to watch, a UUID (may be left out)</span>
            <input
              autocomplete="off"
              pattern="[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
              value={userUuid}
              onInput={(e) => setUserUuid(e.currentTarget.value)}
            />
          </label>
        </>
      )}
      {fault !== null && (
        <p class="fault" role="alert">
          {fault}
        </p>
      )}
      <div class="actions">
        <button type="submit" class="primary">
          Enter
        </button>
        {cancel && (
          <button type="button" onClick={cancel}>
            Cancel
          </button>
        )}
      </div>
    </form>
  );
}
