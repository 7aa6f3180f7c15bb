"""Dovecot's question whether somebody may log in, answered from the blocks in force.

https://doc.dovecot.org/2.3/configuration_manual/authentication/auth_policy/: ``POST ...?command=allow`` with a JSON
object, of which ``login`` is the user; a ``status`` below 0 refuses. ``command=report`` tells how it went, which nobody
here needs to know.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from policyd_rate_limit.errors import PolicydError
from policyd_rate_limit.system.logs import one_line
from policyd_rate_limit.web.api.problems import Problem, problem
from policyd_rate_limit.web.api.routes import authenticated
from policyd_rate_limit.web.authority import Role
from policyd_rate_limit.web.site import site_of
from policyd_rate_limit.web.visitors import BadRequest

if TYPE_CHECKING:
    from starlette.requests import Request

PATH = "/dovecot/auth-policy"
REFUSED, ADMITTED = -1, 0
MESSAGE = "Sending mail is blocked for this account"

_logger = logging.getLogger(__name__)


async def _asked(request: Request) -> Response:
    try:
        _check_role(request)
        command = request.query_params.get("command", "")
        if command == "report":
            return _answer(ADMITTED, "")
        if command != "allow":
            raise Problem(400, "expected command=allow or command=report", "command")  # noqa: TRY301 - as all others
        user = await _login_in(request)
        is_blocked = await site_of(request).blocks.is_blocked(user)
    except Problem as wrong:
        return wrong.response()
    except BadRequest as error:
        return problem(400, str(error))
    except PolicydError as error:
        return problem(503, str(error))  # auth_policy_reject_on_fail of Dovecot says what becomes of the login
    if is_blocked:
        _logger.info("web: Dovecot is told that %s is blocked", one_line(user))
        return _answer(REFUSED, MESSAGE)
    return _answer(ADMITTED, "")


def _check_role(request: Request) -> None:
    if authenticated(request).authority.role is not Role.DOVECOT:
        raise Problem(403, "expected a token of the role dovecot")


async def _login_in(request: Request) -> str:
    """The user in the body. Dovecot says no content type that would be worth a look."""
    try:
        whole = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"expected JSON (RFC 8259): {error}") from error
    user = whole.get("login") if isinstance(whole, dict) else None
    if not isinstance(user, str):
        raise Problem(422, "expected the user as text: auth_policy_request_attributes of Dovecot", "login")
    return user


def _answer(status: int, message: str) -> Response:
    return Response(json.dumps({"status": status, "msg": message}), media_type="application/json")


ROUTES = [Route(PATH, _asked, methods=["POST"])]
