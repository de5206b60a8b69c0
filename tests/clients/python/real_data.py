"""Public data that comes in packages, and what the ready-made transforms must make of it, computed plainly.

    real_data.py FOLDER

writes to FOLDER, as lines of a key, a tab and a JSON text: airports.tsv (airportsdata: names in many scripts, empty codes, negative
numbers) and places.tsv (pycountry: subdivisions of countries, with and without a parent), and NAME.expected for each topic that the
test reads. Counts stand in counts.json.
"""

import hashlib
import hmac
import json
import os
import re
import sys

import airportsdata
import pycountry

KEY = b"a key for tests only"


def airports():
    for n, (icao, airport) in enumerate(sorted(airportsdata.load("ICAO").items())):
        if n % 6 == 0:
            airport = dict(airport)
            for name in ("elevation", "lat", "lon"):
                airport[name] = float(airport[name])
            yield icao, airport


def places():
    for place in sorted(pycountry.subdivisions, key=lambda place: place.code):
        record = {"code": place.code, "name": place.name, "type": place.type, "country": place.country_code}
        if place.parent_code:
            record["parent"] = place.parent_code
        yield place.code, record


def text(record):
    return json.dumps(record, ensure_ascii=False)


def masked(value, keep):
    value = value if isinstance(value, str) else json.dumps(value)
    kept = keep if len(value) >= 2 * keep else 0
    return "*" * (len(value) - kept) + (value[len(value) - kept :] if kept else "")


def hashed(value):
    return hmac.new(KEY, b"hash\0" + value.encode(), hashlib.sha256).hexdigest()


def is_valid(airport):
    return re.fullmatch("[A-Z]{3}", airport["iata"]) is not None and 0 <= airport["elevation"] <= 5000


def is_wanted(airport):
    return airport["country"] in ("DE", "FR", "IS") and airport["elevation"] > 300.5 or airport["lat"] < -60


def main(folder):
    counts = {}

    def put(name, lines):
        lines = list(lines)
        counts[name] = len(lines)
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.writelines(f"{key}\t{value}\n" for key, value in lines)

    flights, regions = list(airports()), list(places())
    put("airports.tsv", ((key, text(record)) for key, record in flights))
    put("places.tsv", ((key, text(record)) for key, record in regions))
    put("masked.expected", ((k, text(a | {"name": masked(a["name"], 4), "lat": masked(a["lat"], 4)})) for k, a in flights))
    put("valid.expected", ((k, text(a)) for k, a in flights if is_valid(a)))
    put("invalid.expected", ((k, text(a)) for k, a in flights if not is_valid(a)))
    put("wanted.expected", ((k, text(a)) for k, a in flights if is_wanted(a)))
    put("airports-json.expected", ((k, text(a)) for k, a in flights))
    put("provinces.expected", ((k, text(p)) for k, p in regions if p["type"] == "Province"))
    put("states.expected", ((k, text(p)) for k, p in regions if p["type"] == "State"))
    put("rest.expected", ((k, text(p)) for k, p in regions if p["type"] not in ("Province", "State")))
    put(
        "hashed.expected",
        ((k, text({n: hashed(v) if n in ("name", "parent") else v for n, v in p.items()})) for k, p in regions),
    )
    put("places-json.expected", ((k, text(p | {"parent": p.get("parent")})) for k, p in regions))
    with open(os.path.join(folder, "counts.json"), "w") as file:
        json.dump(counts, file)


main(sys.argv[1])
