"""The values of a job: options, parameters, stored form and outcome, and the protocol of a driver."""
