"""The pages: what browsers show. Each file is one page, or what several share; this lists where they are."""

from __future__ import annotations

from starlette.routing import Route

from policyd_rate_limit.web.access import changed, seen
from policyd_rate_limit.web.pages import audit, change, language, now, one_id, refusals, rules, search, styles

ROUTES = [
    Route("/", seen(now.now), methods=["GET"]),
    Route("/now", seen(now.parts), methods=["GET"]),
    Route("/id", seen(one_id.one_id), methods=["GET"]),
    Route("/search", seen(search.search), methods=["GET"]),
    Route("/rules", seen(rules.rules), methods=["GET"]),
    Route("/refusals", seen(refusals.refusals), methods=["GET"]),
    Route("/audit", seen(audit.audit), methods=["GET"]),
    Route("/change/{what}", seen(change.form), methods=["GET"]),
    Route("/change/{what}", changed(change.asked), methods=["POST"]),
    Route("/confirm", changed(change.confirmed), methods=["POST"]),
    Route("/language", language.language, methods=["GET"]),
    Route("/static/plots.css", styles.style_of_plots, methods=["GET"]),
]
