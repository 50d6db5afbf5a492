// SPDX-License-Identifier: MIT
/** What can go wrong, in one sentence; `code` is the exit code that the Python command line has for it. */
export class VqcError extends Error {
  /** @param {string} message @param {number} code */
  constructor(message, code) {
    super(message);
    this.name = "VqcError";
    this.code = code;
  }
}

/** @param {string} message */
export const usageError = message => new VqcError(message, 2);
/** @param {string} message */
export const inputError = message => new VqcError(message, 3);
/** @param {string} message */
export const damagedError = message => new VqcError(message, 4);
/** @param {string} message */
export const modelError = message => new VqcError(message, 5);
/** @param {string} message */
export const limitError = message => new VqcError(message, 7);
