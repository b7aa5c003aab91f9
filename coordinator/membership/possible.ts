/**
 * What workers can say in a run. A message may be well formed and yet claim a step that the run does not
 * reach, or ranks that it does not have: it is refused here, so that whoever uses a number may take it for one of the run.
 *
 * @module
 */
import { maxWorkersOf } from "../../shared/config.ts";
import { ProtocolError } from "../../shared/errors.ts";
import { isInRun } from "../../shared/phases.ts";
import type { Position, WorkerMessage } from "../../shared/protocol.ts";
import type { MembershipConfig, MembershipState } from "./state.ts";

/** Steps that reports may be ahead of what all have reported: more than any delay on the way makes them, less than fill the memory. */
const MAX_AHEAD_STEPS = 65_536;

type FromMember = Exclude<WorkerMessage, { type: "join" | "busy" }>;

/**
 * Checks what a member says.
 *
 * @throws {ProtocolError} If no worker of the run can say it.
 */
export function checkPossible(message: FromMember, state: MembershipState, config: MembershipConfig): void {
  const wrong = "generation" in message ? wrongNumber(message, state, config) : null;
  if (wrong === null) return;
  throw new ProtocolError(`Cannot use "${message.type}" as no worker of this run can be there: ${wrong}`);
}

function wrongNumber(
  message: Extract<FromMember, { generation: number }>,
  state: MembershipState,
  config: MembershipConfig,
): string | null {
  const { generation, recorded, endStep: lastStep } = state;
  const { endStep, run } = config;
  if (message.generation > generation + 1) return `generation ${message.generation} after ${generation}`;
  const isCurrent = message.generation === generation;
  switch (message.type) {
    case "heartbeat": {
      const { globalStep, waitingRanks } = message;
      if (globalStep > endStep) return beyond(globalStep, config);
      const ranks = new Set(waitingRanks);
      const limit = maxWorkersOf(run);
      return ranks.size < waitingRanks.length || waitingRanks.some((rank) => rank >= limit)
        ? `it waits for ranks ${waitingRanks.slice(0, 8).join()} of at most ${limit}`
        : null;
    }
    case "paused":
      return message.position === null ? null : wrongPosition(message.position, config);
    case "step": {
      const { globalStep } = message.report;
      if (globalStep === 0 || globalStep > endStep) return beyond(globalStep, config);
      return isCurrent && globalStep > recorded + MAX_AHEAD_STEPS
        ? `step ${globalStep} where all have reported ${recorded}`
        : null;
    }
    case "finished":
      return isCurrent && message.globalStep !== lastStep
        ? `finished at step ${message.globalStep} of ${lastStep}`
        : null;
    case "nonFinite":
      return message.globalStep > endStep ? beyond(message.globalStep, config) : null;
    case "ready":
    case "left":
      return null;
  }
}

/** What is wrong with the position of a replica, or null. */
export function wrongPosition(position: Position, { endStep, run }: MembershipConfig): string | null {
  if (isInRun(position, endStep, run.discriminatorSteps)) return null;
  return `step ${position.globalStep}, phase ${position.phase} of a run that ends after step ${endStep}`;
}

function beyond(globalStep: number, { endStep }: MembershipConfig): string {
  return `step ${globalStep} of a run of steps 1 to ${endStep}`;
}
