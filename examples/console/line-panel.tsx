import { type Line, type Outage, type RoundTrip, WINDOW_MS, WIRES } from "./line.ts";
import { Lamp, Panel } from "./parts.tsx";
import { useNow, useStore } from "./store.ts";

const CUT_MS = 4_000;
const WIDTH = 300;
const HEIGHT = 72;
/** Round trips at the top of the strip, in ms, at least. */
const SCALE_MS = 20;

/** The last minute: a bar for each ping, a band for each time without a connection. */
function Strip(props: {
  trips: readonly RoundTrip[];
  outages: readonly Outage[];
  topMs: number;
  nowMs: number;
}) {
  const { trips, outages, topMs, nowMs } = props;
  const x = (atMs: number) => Math.max(0, WIDTH * (1 - (nowMs - atMs) / WINDOW_MS));
  const recent = trips.filter(({ atMs }) => nowMs - atMs < WINDOW_MS);
  const gaps = outages.filter(({ toMs }) => nowMs - (toMs ?? nowMs) < WINDOW_MS);
  const lost = gaps.length === 0 ? "no outage" : `${gaps.length} outage(s)`;
  return (
    <svg
      class="strip"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={`The last minute: ${recent.length} pings answered, ${lost}`}
    >
      {gaps.map(({ fromMs, toMs }) => {
        const left = x(fromMs);
        const width = Math.max(2, x(toMs ?? nowMs) - left);
        return <rect key={fromMs} class="gap" x={left} y="0" width={width} height={HEIGHT} />;
      })}
      {recent.map(({ atMs, ms }) => {
        const height = Math.max(3, (HEIGHT - 6) * Math.sqrt(ms / topMs));
        return <rect key={atMs} x={x(atMs) - 3} y={HEIGHT - height} width="3" height={height} />;
      })}
    </svg>
  );
}

const WORDS: Record<string, string> = {
  connecting: "Connecting",
  connected: "Connected",
  reconnecting: "Coming back",
  disconnected: "Disconnected",
  error: "Refused",
};

export function LinePanel({ line }: { line: Line }) {
  const states = useStore(line.states);
  const trips = useStore(line.roundTrips);
  const outages = useStore(line.outages);
  const cutUntilMs = useStore(line.cutUntilMs);
  const nowMs = useNow(cutUntilMs === null ? 1_000 : 200);
  const last = trips.at(-1);
  const topMs = Math.max(SCALE_MS, ...trips.map(({ ms }) => ms));
  const state = states.room ?? "connecting";
  const isUp = cutUntilMs === null && state === "connected";
  const outage = outages.at(-1);
  const outageS = outage?.toMs ? ((outage.toMs - outage.fromMs) / 1000).toFixed(1) : null;
  const leftS = cutUntilMs === null ? 0 : Math.max(0, Math.ceil((cutUntilMs - nowMs) / 1000));
  return (
    <Panel
      name="line"
      title="The line"
      wire="ping · pong"
      idea="Cut it: the sockets drop, the client comes back by itself and catches up on what it missed."
    >
      <p class="line-state" role="status">
        <Lamp state={isUp ? "connected" : "reconnecting"} />
        {cutUntilMs === null ? (WORDS[state] ?? state) : "Cut"}
        {isUp && outageS !== null && <small> again, after {outageS} s</small>}
      </p>
      <p class="figure latency">
        <b data-testid="latency">{isUp && last ? last.ms.toFixed(last.ms < 10 ? 1 : 0) : "–"}</b> ms
        round trip
      </p>
      <p class="strip-top" aria-hidden="true">
        {Math.round(topMs)} ms
      </p>
      <Strip trips={trips} outages={outages} topMs={topMs} nowMs={nowMs} />
      <p class="strip-ends" aria-hidden="true">
        <span>a minute ago</span>
        <span>now</span>
      </p>
      <ul class="wires" aria-label="What runs over the line">
        {WIRES.filter((wire) => states[wire] !== undefined).map((wire) => (
          <li key={wire} data-wire={wire} data-state={states[wire]}>
            <Lamp state={states[wire] ?? ""} />
            <span>{wire}</span>
            <span class="quiet">{states[wire]}</span>
          </li>
        ))}
      </ul>
      <div class="actions">
        <button
          type="button"
          class="danger"
          aria-disabled={cutUntilMs !== null}
          onClick={() => line.cut(CUT_MS)}
        >
          {cutUntilMs === null ? "Cut the line" : "The line is cut"}
          <span aria-hidden="true">
            {cutUntilMs === null ? ` for ${CUT_MS / 1000} s` : `, ${leftS} s`}
          </span>
        </button>
      </div>
    </Panel>
  );
}
