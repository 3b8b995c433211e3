"""The routes that arm failpoints; they exist only with --demo."""

from __future__ import annotations

from flask import Flask, Response

from kvlog.api import incoming
from kvlog.api.answers import View, respond
from kvlog.errors import InvalidInput, SettingsError
from kvlog.failpoints import FAILPOINTS

SPEC_BYTES_MAX = 1_000


def add_routes(app: Flask) -> None:
    """GET and PUT /v1/failpoints."""

    def refuse_parameters() -> None:
        if incoming.query():
            raise InvalidInput("/v1/failpoints has no parameters; what to arm is the body of a PUT, as text")

    def view() -> Response:
        return respond(View({"failpoints": FAILPOINTS.report()}))

    @app.get("/v1/failpoints")
    def failpoints() -> Response:
        """Every place, what is armed there, and how often it was passed since."""
        refuse_parameters()
        return view()

    @app.put("/v1/failpoints")
    def arm_failpoints() -> Response:
        """Arm what the body says, and nothing else; an empty one disarms all."""
        refuse_parameters()
        spec = incoming.body()
        if len(spec) > SPEC_BYTES_MAX:
            raise InvalidInput(f"the spec has more than {SPEC_BYTES_MAX} bytes")
        try:
            FAILPOINTS.arm(spec.decode("ascii"))
        except UnicodeDecodeError:
            raise InvalidInput("the spec must be ASCII") from None
        except SettingsError as error:
            raise InvalidInput(str(error)) from None
        return view()
