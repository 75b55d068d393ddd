"""The area of each subject: a question's `area` is looked up here by its language and subject.

By language, because the two benchmarks put some subjects that share a name into different areas (anatomy,
computer_security, global_facts ...). English: Hendrycks et al. (arXiv 2009.03300); Chinese: Li et al.
(arXiv 2306.09212), whose fifth group, "China specific", overlaps the other four and is left out.
"""

from __future__ import annotations

_SAMPLE = {
    "stem": "mathematics physics biology computer_science",
    "humanities": "history philosophy literature",
    "social_sciences": "economics geography",
    "other": "health",
}
_MMLU = {
    "stem": """abstract_algebra astronomy college_biology college_chemistry college_computer_science
        college_mathematics college_physics computer_security conceptual_physics electrical_engineering
        elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science
        high_school_mathematics high_school_physics high_school_statistics machine_learning""",
    "humanities": """formal_logic high_school_european_history high_school_us_history
        high_school_world_history international_law jurisprudence logical_fallacies moral_disputes
        moral_scenarios philosophy prehistory professional_law world_religions""",
    "social_sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "other": """anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging
        management marketing medical_genetics miscellaneous nutrition professional_accounting
        professional_medicine virology""",
}
_CMMLU = {
    "stem": """anatomy astronomy college_actuarial_science college_engineering_hydrology
        college_mathematics college_medical_statistics computer_science conceptual_physics
        electrical_engineering elementary_mathematics genetics high_school_biology high_school_chemistry
        high_school_mathematics high_school_physics machine_learning virology""",
    "humanities": """arts chinese_history chinese_literature college_law global_facts international_law
        jurisprudence logical marxist_theory philosophy professional_law world_history world_religions""",
    "social_sciences": """ancient_chinese business_ethics chinese_civil_service_exam chinese_food_culture
        chinese_foreign_policy chinese_teacher_qualification college_education economics education
        elementary_chinese ethnology high_school_geography high_school_politics journalism management
        marketing modern_chinese professional_accounting professional_psychology public_relations
        security_study sociology""",
    "other": """agronomy chinese_driving_rule clinical_knowledge college_medicine computer_security
        construction_project_management elementary_commonsense elementary_information_and_technology
        food_science human_sexuality legal_and_moral_basis nutrition professional_medicine sports_science
        traditional_chinese_medicine""",
}


def _area_of_subject(groups: dict[str, str]) -> dict[str, str]:
    return {subject: area for area, subjects in groups.items() for subject in subjects.split()}


AREAS: dict[str, dict[str, str]] = {
    "en": _area_of_subject(_SAMPLE) | _area_of_subject(_MMLU),
    "zh": _area_of_subject(_SAMPLE) | _area_of_subject(_CMMLU),
}
