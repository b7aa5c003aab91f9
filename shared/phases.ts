/**
 * The phases of a global step: discriminatorSteps discriminator updates, then
 * one generator update. A phase is numbered from 0 within its step.
 *
 * @module
 */
import type { NetworkName } from "./nn/network.ts";
import type { Position } from "./protocol.ts";

export interface Phase {
  readonly index: number;
  /** "D0", "D1", ..., "G": for logs and errors. */
  readonly name: string;
  /** The network that this phase updates. */
  readonly network: NetworkName;
}

/** Optimizer updates of each network, as messages carry them. */
export interface Updates {
  readonly generatorSteps: number;
  readonly discriminatorSteps: number;
}

export function phasesOfStep(discriminatorSteps: number): readonly Phase[] {
  const phases: Phase[] = [];
  for (let index = 0; index < discriminatorSteps; index++) {
    phases.push({ index, name: `D${index}`, network: "discriminator" });
  }
  return [...phases, { index: discriminatorSteps, name: "G", network: "generator" }];
}

/** Whether a replica can be at a position in a run that ends after so many steps. */
export function isInRun(
  { globalStep, phase }: Position,
  endStep: number,
  discriminatorSteps: number,
): boolean {
  return globalStep < endStep ? phase <= discriminatorSteps : globalStep === endStep && phase === 0;
}

/** Optimizer updates of each network at a position. */
export function updatesAt({ globalStep, phase }: Position, discriminatorSteps: number): Updates {
  return {
    generatorSteps: globalStep,
    discriminatorSteps: globalStep * discriminatorSteps + phase,
  };
}

/** Whether a message of a state names so many updates. */
export function areUpdates(message: Updates, { generatorSteps, discriminatorSteps }: Updates): boolean {
  return message.generatorSteps === generatorSteps && message.discriminatorSteps === discriminatorSteps;
}

/**
 * Metrics ride behind the gradient in the all-reduced vector, so that they are
 * summed in the canonical order too: sums over samples, divided by the global batch size.
 * A probability is the sigmoid of a logit. Where the discriminator is trained as a critic (least-squares,
 * hinge, wgan-gp) it is no probability, but still rises with the critic's score; the score 0 gives 0.5.
 */
export const PHASE_METRICS = {
  discriminator: ["loss", "realProbability", "fakeProbability"],
  generator: ["loss", "fakeProbability"],
} as const satisfies Record<NetworkName, readonly string[]>;
