"""Companies, routes and payment codes of the demo.

What is real: the places, and every fare whose `source` names an announcement of Sierra Leone's Ministry of
Transport and Aviation (road fares in force from 16 March 2026, ferry fares from 28 January 2026, as reported
by the press). What is assumed: the companies (invented names), their commission rates, which company runs
which route, the payment codes, and every fare whose `source` is `ASSUMED`, set between its real neighbours.
Fares are in minor units: SLE 1 = 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid5

NAMESPACE = UUID("4cf7f5ab-65fe-5fe4-a9c3-2a4c0a0a80cb")
"""All ids of the demo are uuid5 of this, so that the demo can be run again on the same database."""

ROAD_2026 = "Ministry of Transport and Aviation, road fares of 16 March 2026"
FERRY_2026 = "Ministry of Transport and Aviation, ferry fares of 28 January 2026"
ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Route:
    """A route with its fare in minor units and the fare's source; `weight` is its share of the rush."""

    name: str
    origin: str
    destination: str
    fare: int
    source: str
    weight: int = 1
    status: str = "active"

    @property
    def id(self) -> UUID:
        """The same on every machine."""
        return uuid5(NAMESPACE, f"route/{self.name}")


@dataclass(frozen=True, slots=True)
class Company:
    """An invented bus company; `commission_rate` is text to keep all its digits."""

    name: str
    commission_rate: str
    routes: tuple[Route, ...]
    status: str = "active"

    @property
    def id(self) -> UUID:
        """The same on every machine."""
        return uuid5(NAMESPACE, f"company/{self.name}")

    @property
    def monime_account_id(self) -> str:
        """An invented account in the payment provider's notation."""
        return f"fac-{self.id.hex[:12]}"


COMPANIES: tuple[Company, ...] = (
    Company(
        "Cotton Tree Coaches",
        "0.05",
        (
            Route("Freetown – Bo", "Freetown", "Bo", 14_700, ROAD_2026, 9),
            Route("Freetown – Kenema", "Freetown", "Kenema", 18_430, ROAD_2026, 7),
            Route("Freetown – Koidu (Kono)", "Freetown", "Koidu", 23_340, ROAD_2026, 4),
            Route("Freetown – Kailahun", "Freetown", "Kailahun", 30_710, ROAD_2026, 2),
            Route("Freetown – Moyamba", "Freetown", "Moyamba", 14_740, ROAD_2026, 2),
            Route("Freetown – Mattru", "Freetown", "Mattru", 17_200, ROAD_2026, 1),
            Route("Bo – Kenema", "Bo", "Kenema", 4_500, ASSUMED, 4),
        ),
    ),
    Company(
        "Wusum Express",
        "0.045",
        (
            Route("Freetown – Makeni", "Freetown", "Makeni", 14_740, ROAD_2026, 8),
            Route("Freetown – Port Loko", "Freetown", "Port Loko", 14_740, ROAD_2026, 4),
            Route("Freetown – Kabala", "Freetown", "Kabala", 23_340, ROAD_2026, 3),
            Route("Freetown – Lunsar", "Freetown", "Lunsar", 11_060, ASSUMED, 3),
            Route("Port Loko – Lungi", "Port Loko", "Lungi", 7_500, ASSUMED, 2),
            Route("Makeni – Koidu", "Makeni", "Koidu", 9_500, ASSUMED, 2),
        ),
    ),
    Company(
        "Peninsula City Lines",
        "0.0325",
        (
            Route("Waterloo – Bombay Street", "Waterloo", "Bombay Street", 860, ROAD_2026, 40),
            Route("Lumley – Regent Road", "Lumley", "Regent Road", 610, ROAD_2026, 36),
            Route("Aberdeen – Regent Road", "Aberdeen", "Regent Road", 610, ROAD_2026, 24),
            Route("Calaba Town – Goderich Street", "Calaba Town", "Goderich Street", 860, ROAD_2026, 26),
            Route("Jui – Lumley", "Jui", "Lumley", 1_970, ROAD_2026, 20),
            Route("Grafton – Bombay Street", "Grafton", "Bombay Street", 1_230, ROAD_2026, 12),
            Route("Wilberforce – Jui", "Wilberforce", "Jui", 1_350, ROAD_2026, 12),
            Route("Lumley – Ogoo Farm", "Lumley", "Ogoo Farm", 1_110, ROAD_2026, 6),
            Route("Waterloo – Tokeh", "Waterloo", "Tokeh", 3_070, ROAD_2026, 5),
            Route("Kissy – Regent Road", "Kissy", "Regent Road", 860, ASSUMED, 30),
            Route("Congo Cross – Kissy", "Congo Cross", "Kissy", 860, ASSUMED, 3, "inactive"),
        ),
    ),
    Company(
        "Tagrin Bay Crossings",
        "0.08",
        (
            Route("Kissy – Lungi (Tagrin), second class", "Kissy", "Lungi", 2_611, FERRY_2026, 10),
            Route("Kissy – Lungi (Tagrin), first class", "Kissy", "Lungi", 4_822, FERRY_2026, 3),
        ),
    ),
    Company(
        "Bullom Shore Shuttle",
        "0.05",
        (Route("Lungi – Lungi Airport", "Lungi", "Lungi Airport", 1_500, ASSUMED, 2),),
        status="suspended",
    ),
)


@dataclass(frozen=True, slots=True)
class PaymentCode:
    """A code of one rush: `route` None means any route of the company."""

    company: Company
    route: Route | None
    code: str
    total_tickets: int
    cancelled: bool = False
