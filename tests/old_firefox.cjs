"use strict";
// Loaded by Playwright's driver before its own code. The driver sends every new context of Firefox a command that sets
// the colour scheme, which releases such as 153 answer by an error. They get a harmless command instead.
const { stringify } = JSON;
JSON.stringify = (value, ...rest) => {
  const unknown = value?.method === "emulation.setMediaFeaturesOverride";
  return stringify(unknown ? { id: value.id, method: "session.status", params: {} } : value, ...rest);
};
