"""The report as one HTML file that needs nothing else: no script, no font, no request."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from vademecum.report.document import Figure
from vademecum.report.material import ReportMaterial
from vademecum.report.plain import visible
from vademecum.report.sections import build_sections
from vademecum.report.sentences import NOT_ADVICE, deck

if TYPE_CHECKING:
    from jinja2 import Environment


def render_html(report: Mapping[str, Any], material: ReportMaterial, *, public: bool) -> str:
    """The whole report; `public` leaves out every text of the corpus and of the systems."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=material.name,
            deck=deck(report, material),
            not_advice=NOT_ADVICE,
            sections=build_sections(report, material, public=public),
            version=report["run"]["versions"].get("vademecum", ""),
        )
    )


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
