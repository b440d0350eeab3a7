import { MOODS, type MoodState, type Moods } from "./moods.ts";
import { Panel, plural } from "./parts.tsx";
import { useStore } from "./store.ts";

/** Dots that are drawn; past it, each stands for several people. */
const DOTS = 480;
const RADIUS = 100;
/** The golden angle: seeds of a sunflower never line up. */
const TURN = Math.PI * (3 - Math.sqrt(5));

/** Everyone as a seed of a sunflower: one mood a ring, as wide as it has people. */
function Flower({ state }: { state: MoodState }) {
  const perDot = Math.max(1, Math.ceil(state.count / DOTS));
  const moods = MOODS.flatMap((mood) =>
    Array.from({ length: Math.ceil(state.moods[mood] / perDot) }, () => mood),
  );
  // A seed keeps its place; what grows is the rim.
  const seeds = moods.map((mood, place) => ({ mood, place }));
  const spacing = Math.min(RADIUS / Math.sqrt(seeds.length + 1), 22);
  const summary = MOODS.map((mood) => `${state.moods[mood]} in ${mood}`).join(", ");
  return (
    <svg
      class="flower"
      viewBox="-110 -110 220 220"
      role="img"
      aria-label={`${plural(state.count, "person", "people")} here: ${summary}`}
    >
      <circle class="rim" r="108" />
      {seeds.map(({ mood, place }) => {
        const r = spacing * Math.sqrt(place + 0.4);
        const x = (r * Math.cos(place * TURN)).toFixed(2);
        const y = (r * Math.sin(place * TURN)).toFixed(2);
        const size = (spacing * 0.78).toFixed(2);
        return (
          <circle
            key={place}
            class="seed"
            data-mood={mood}
            r="1"
            style={{ transform: `translate(${x}px, ${y}px) scale(${size})` }}
          />
        );
      })}
    </svg>
  );
}

export function MoodsPanel({ moods }: { moods: Moods }) {
  const state = useStore(moods.state);
  const chosen = useStore(moods.mood);
  const crowd = useStore(moods.crowd);
  return (
    <Panel
      name="moods"
      title="Moods"
      wire="WS /ws/moods"
      idea="How many are here right now, and in which mood. No account, no name, nothing kept."
    >
      <div class="field">
        {state ? <Flower state={state} /> : <div class="flower" />}
        <div>
          <p class="figure count">
            <b data-testid="mood-count">{state?.count ?? "–"}</b> here now
          </p>
          <fieldset class="legend">
            <legend>Your mood</legend>
            {MOODS.map((mood) => (
              <label key={mood} data-mood={mood}>
                <input
                  type="radio"
                  name="mood"
                  value={mood}
                  checked={mood === chosen}
                  onChange={() => moods.setMood(mood)}
                />
                <i aria-hidden="true" />
                <span>{mood}</span>
                <b>{state?.moods[mood] ?? "–"}</b>
              </label>
            ))}
          </fieldset>
        </div>
      </div>
      <div class="actions">
        <button type="button" onClick={() => moods.invite()}>
          Let a dozen visitors in
        </button>
        <button type="button" disabled={crowd === 0} onClick={() => moods.farewell()}>
          Let them leave
        </button>
      </div>
    </Panel>
  );
}
