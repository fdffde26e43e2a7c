"""The report as one HTML file that needs nothing else: no script, no font, no request."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from vademecum.report.document import Figure, Page
from vademecum.report.material import ReportMaterial
from vademecum.report.plain import visible
from vademecum.report.sections import build_page
from vademecum.report.sentences import NOT_ADVICE

if TYPE_CHECKING:
    from jinja2 import Environment


VERDICTS = {
    "report": ("better", "worse", "not shown"),
    "study": ("reproduced", "contradicted", "no real difference", "not shown"),
}
"""The words that are shown as badges in tables."""


def render_html(report: Mapping[str, Any], material: ReportMaterial, *, public: bool) -> str:
    """The whole report; `public` leaves out every text of the corpus and of the systems."""
    return render_page(build_page(report, material, public=public))


def render_page(page: Page) -> str:
    """A run's or a study's report: the same look for both."""
    return _environment().get_template("report.html.j2").render(page=page, not_advice=NOT_ADVICE, verdicts=VERDICTS)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("vademecum.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # what is markup already stays as it is
    )

    def drawing(figure: Figure) -> Markup:
        """Figures escape their own labels; everything else goes through autoescape."""
        return Markup(figure.svg)  # noqa: S704

    environment.filters["drawing"] = drawing
    return environment
